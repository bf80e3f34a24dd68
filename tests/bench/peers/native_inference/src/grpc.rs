//! V2 over gRPC: ModelInfer with raw tensors. The messages have the protocol's numbers and only the fields that are used here.

use std::convert::Infallible;
use std::future::{ready, Future, Ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use prost::Message;
use tonic::codegen::http;
use tonic::{Request, Response, Status};

use crate::batching::{Input, Queue};

#[derive(Clone, PartialEq, Message)]
pub struct InferInputTensor {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    datatype: String,
    #[prost(int64, repeated, tag = "3")]
    shape: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ModelInferRequest {
    #[prost(string, tag = "1")]
    model_name: String,
    #[prost(string, tag = "3")]
    id: String,
    #[prost(message, repeated, tag = "5")]
    inputs: Vec<InferInputTensor>,
    #[prost(bytes = "bytes", repeated, tag = "7")]
    raw_input_contents: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub struct InferOutputTensor {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    datatype: String,
    #[prost(int64, repeated, tag = "3")]
    shape: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ModelInferResponse {
    #[prost(string, tag = "1")]
    model_name: String,
    #[prost(string, tag = "3")]
    id: String,
    #[prost(message, repeated, tag = "5")]
    outputs: Vec<InferOutputTensor>,
    #[prost(bytes = "bytes", repeated, tag = "6")]
    raw_output_contents: Vec<Bytes>,
}

pub async fn serve(port: u16, queue: Queue) {
    tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .add_service(Service(queue))
        .serve(([127, 0, 0, 1], port).into())
        .await
        .expect("serving");
}

async fn infer(queue: Queue, request: ModelInferRequest) -> Result<Response<ModelInferResponse>, Status> {
    let invalid = || Status::invalid_argument("one raw input is wanted");
    let raw = request.raw_input_contents.into_iter().next().ok_or_else(invalid)?;
    let input = match request.inputs.first().map(|tensor| tensor.datatype.as_str()) {
        Some("FP32") => Input::Raw(raw),
        Some("BYTES") if raw.len() >= 4 => Input::Jpeg(raw.slice(4..)),
        _ => return Err(invalid()),
    };
    let values = queue.infer(input).await.ok_or_else(|| Status::internal("the model failed"))?;
    let output =
        InferOutputTensor { name: "y".into(), datatype: "FP32".into(), shape: vec![1, values.len() as i64] };
    Ok(Response::new(ModelInferResponse {
        model_name: request.model_name,
        id: request.id,
        outputs: vec![output],
        raw_output_contents: vec![Bytes::copy_from_slice(bytemuck::cast_slice(&values))],
    }))
}

/// What tonic's generator would write for this one method.
#[derive(Clone)]
struct Service(Queue);

struct Infer(Queue);

impl tonic::server::UnaryService<ModelInferRequest> for Infer {
    type Response = ModelInferResponse;
    type Future = Pin<Box<dyn Future<Output = Result<Response<ModelInferResponse>, Status>> + Send>>;

    fn call(&mut self, request: Request<ModelInferRequest>) -> Self::Future {
        Box::pin(infer(self.0.clone(), request.into_inner()))
    }
}

impl tonic::codegen::Service<http::Request<tonic::body::Body>> for Service {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        if request.uri().path() != "/inference.GRPCInferenceService/ModelInfer" {
            let unknown: Ready<_> = ready(Ok(Status::unimplemented("ModelInfer only").into_http()));
            return Box::pin(unknown);
        }
        let queue = self.0.clone();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(tonic_prost::ProstCodec::default())
                .apply_max_message_size_config(Some(64 << 20), None);
            Ok(grpc.unary(Infer(queue), request).await)
        })
    }
}

impl tonic::server::NamedService for Service {
    const NAME: &'static str = "inference.GRPCInferenceService";
}
