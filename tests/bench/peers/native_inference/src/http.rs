//! V2 over HTTP: `POST /v2/models/m/infer` with JSON, or with JSON and raw tensors behind it; and whether it is ready.

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{header, HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::Router;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::batching::{Input, Queue};

const LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

#[derive(Deserialize)]
struct Request {
    inputs: Vec<Tensor>,
    #[serde(default)]
    parameters: Parameters,
}

#[derive(Deserialize)]
struct Tensor {
    datatype: String,
    #[serde(default)]
    data: Vec<f32>,
}

#[derive(Deserialize, Default)]
struct Parameters {
    #[serde(default)]
    binary_data_output: bool,
}

#[derive(Serialize)]
struct Answer<'a> {
    model_name: &'a str,
    outputs: [Output<'a>; 1],
}

#[derive(Serialize)]
struct Output<'a> {
    name: &'a str,
    datatype: &'a str,
    shape: [usize; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a [f32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Size>,
}

#[derive(Serialize)]
struct Size {
    binary_data_size: usize,
}

pub async fn serve(port: u16, queue: Queue) {
    let app = Router::new()
        .route("/v2/health/ready", get(|| async {}))
        .route("/v2/models/{model}/infer", post(infer))
        .layer(DefaultBodyLimit::max(64 << 20))
        .with_state(queue);
    let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the port");
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, app).await.expect("serving");
}

async fn infer(State(queue): State<Queue>, headers: HeaderMap, body: Bytes) -> Response {
    match answer(queue, headers, body).await {
        Some(response) => response,
        None => StatusCode::BAD_REQUEST.into_response(),
    }
}

async fn answer(queue: Queue, headers: HeaderMap, body: Bytes) -> Option<Response> {
    let raw = headers.get(LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let request: Request = serde_json::from_slice(body.get(..raw.unwrap_or(body.len()))?).ok()?;
    let tensor = request.inputs.into_iter().next()?;
    let input = match (raw, tensor.datatype.as_str()) {
        (None, "FP32") => Input::Numbers(tensor.data),
        (Some(at), "FP32") => Input::Raw(body.slice(at..)),
        // One element: its length in four bytes before it.
        (Some(at), "BYTES") if body.len() >= at + 4 => Input::Jpeg(body.slice(at + 4..)),
        _ => return None,
    };
    let values = queue.infer(input).await?;
    let binary = request.parameters.binary_data_output;
    let size = values.len() * 4;
    let output = Output {
        name: "y",
        datatype: "FP32",
        shape: [1, values.len()],
        data: (!binary).then_some(&values),
        parameters: binary.then_some(Size { binary_data_size: size }),
    };
    let mut text = serde_json::to_vec(&Answer { model_name: "m", outputs: [output] }).ok()?;
    if !binary {
        return Some(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response());
    }
    let length = HeaderValue::from(text.len());
    text.extend_from_slice(bytemuck::cast_slice(&values));
    let kind = HeaderValue::from_static("application/octet-stream");
    Some(([(header::CONTENT_TYPE, kind), (LENGTH, length)], text).into_response())
}
