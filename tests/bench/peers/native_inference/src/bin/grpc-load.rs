//! A load client for one gRPC method: the same message again and again, so many calls open, over a few connections. It says
//! what wrk says, as a line of JSON. One thread, and HTTP/2 without anything above it: a gRPC library would cost as much as a server.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use clap::Parser;
use h2::client::SendRequest;
use tokio::net::TcpStream;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Options {
    #[arg(long)]
    port: u16,
    /// `package.Service/Method`.
    #[arg(long)]
    method: String,
    /// A file with the encoded message.
    #[arg(long)]
    message: PathBuf,
    #[arg(long)]
    open: usize,
    #[arg(long, default_value_t = 4)]
    connections: usize,
    #[arg(long)]
    seconds: f64,
}

#[derive(Default)]
struct Found {
    micros: Vec<u32>,
    failed: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let options = Options::parse();
    let message = std::fs::read(&options.message).expect("the message");
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.extend_from_slice(&message);
    let frame = frame.freeze();
    let uri: http::Uri = format!("http://127.0.0.1:{}/{}", options.port, options.method).parse().expect("the method");
    let mut tasks = Vec::new();
    let connections = options.connections.min(options.open);
    let mut opened = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(("127.0.0.1", options.port)).await.expect("the server");
        stream.set_nodelay(true).expect("a socket");
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
            .handshake::<_, Bytes>(stream)
            .await
            .expect("HTTP/2");
        tokio::spawn(connection);
        opened.push(sender);
    }
    let began = Instant::now();
    let end = began + Duration::from_secs_f64(options.seconds);
    for i in 0..options.open {
        let sender = opened[i % connections].clone();
        tasks.push(tokio::spawn(ask(sender, uri.clone(), frame.clone(), end)));
    }
    let mut all = Found::default();
    for task in tasks {
        let found = task.await.expect("a task");
        all.micros.extend(found.micros);
        all.failed += found.failed;
    }
    let seconds = began.elapsed().as_secs_f64();
    all.micros.sort_unstable();
    let at = |part: f64| all.micros.get((all.micros.len() as f64 * part) as usize).map_or(0.0, |us| f64::from(*us) / 1000.0);
    println!(
        "{{\"requests\": {}, \"failed\": {}, \"seconds\": {seconds}, \"p50_ms\": {}, \"p95_ms\": {}, \"p99_ms\": {}}}",
        all.micros.len(),
        all.failed,
        at(0.5),
        at(0.95),
        at(0.99),
    );
}

async fn ask(sender: SendRequest<Bytes>, uri: http::Uri, frame: Bytes, end: Instant) -> Found {
    let mut found = Found::default();
    let mut sender = sender.ready().await.expect("a connection");
    while Instant::now() < end {
        let asked = Instant::now();
        match once(&mut sender, &uri, &frame).await {
            Some(true) => found.micros.push(asked.elapsed().as_micros() as u32),
            _ => {
                found.failed += 1;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
    found
}

/// Whether the call's status is OK.
async fn once(sender: &mut SendRequest<Bytes>, uri: &http::Uri, frame: &Bytes) -> Option<bool> {
    let request = http::Request::post(uri.clone())
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .ok()?;
    std::future::poll_fn(|context| sender.poll_ready(context)).await.ok()?;
    let (response, mut body) = sender.send_request(request, false).ok()?;
    body.send_data(frame.clone(), true).ok()?;
    let mut answer = response.await.ok()?.into_body();
    while let Some(part) = answer.data().await {
        let part = part.ok()?;
        let _ = answer.flow_control().release_capacity(part.len());
    }
    let trailers = answer.trailers().await.ok()??;
    Some(trailers.get("grpc-status").is_some_and(|status| status == "0"))
}
