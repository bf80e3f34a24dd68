# The digits model under the versions that a test wants.
ARG INFERENCE
FROM ${INFERENCE}
COPY digits/model.yaml /models/digits/
COPY digits/1 /models/versions/any
ARG VERSIONS
USER 0
RUN for version in ${VERSIONS}; do cp -r /models/versions/any /models/digits/$version; done && rm -r /models/versions
USER 65532:65532
