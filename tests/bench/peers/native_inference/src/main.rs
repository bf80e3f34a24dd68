//! A native inference server, as one would write it today: axum and tonic in front, ONNX Runtime through `ort`, between them a
//! queue from which a few threads take batches. It speaks as much of V2 as the bench asks: one input, one output, FP32; over
//! HTTP in JSON or raw, over gRPC raw; with `--image`, JPEG files as BYTES.
//!
//! It does less than podpair's: no versions, no metrics, no deadlines, no limits, no reload, one model and no checks but of lengths.

mod batching;
mod grpc;
mod http;
mod images;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
pub struct Options {
    /// Ports on 127.0.0.1.
    #[arg(long)]
    http: u16,
    #[arg(long)]
    grpc: u16,
    /// ONNX Runtime's shared library.
    #[arg(long)]
    runtime: std::path::PathBuf,
    #[arg(long)]
    model: std::path::PathBuf,
    /// Of one row.
    #[arg(long, value_delimiter = ',')]
    shape: Vec<i64>,
    /// Rows in a batch, how long one waits for company, and batches at the same time.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    #[arg(long, default_value_t = 0)]
    wait_us: u64,
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Requests hold JPEG files: resized to the shape, normalised by ImageNet's mean and deviation.
    #[arg(long)]
    image: bool,
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let queue = batching::start(&options);
    let over_grpc = tokio::spawn(grpc::serve(options.grpc, queue.clone()));
    tokio::select! {
        _ = over_grpc => (),
        _ = http::serve(options.http, queue) => (),
    }
}
