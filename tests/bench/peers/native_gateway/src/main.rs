//! A native gateway from Kafka to WebSockets, in the two forms that one finds: `broadcast`, as commonly published, where every
//! connection's task filters a broadcast channel, and `index`, its best form, where each session has a queue of its own.
//!
//! It does less than podpair's: no resume, no requests, no back-pressure, no heartbeat. Its sessions get a record's value as it
//! is. Prints `ready` once it reads the topic's end.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message as Frame, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::extract::State;
use axum::http::{header::AUTHORIZATION, HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::Router;
use clap::{Parser, ValueEnum};
use dashmap::DashMap;
use futures_util::{SinkExt, StreamExt};
use jsonwebtoken::{decode, Algorithm, DecodingKey, Validation};
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use serde::Deserialize;
use tokio::sync::{broadcast, mpsc};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    Broadcast,
    Index,
}

#[derive(Parser)]
struct Options {
    #[arg(long)]
    port: u16,
    #[arg(long)]
    brokers: String,
    #[arg(long)]
    topic: String,
    #[arg(long)]
    secret: String,
    #[arg(long, value_enum)]
    form: Form,
    /// Bytes of a connection's read buffer; tungstenite's default is 128 KiB, and it zero-fills it before each read.
    #[arg(long, default_value_t = 131_072)]
    read_buffer: usize,
    /// Records that a broadcast channel holds before it drops the oldest.
    #[arg(long, default_value_t = 1024)]
    channel: usize,
}

struct Record {
    key: Box<[u8]>,
    value: Utf8Bytes,
}

enum Sessions {
    Broadcast(broadcast::Sender<Arc<Record>>),
    Index(DashMap<Box<[u8]>, mpsc::UnboundedSender<Utf8Bytes>>),
}

struct Gateway {
    sessions: Sessions,
    key: DecodingKey,
    validation: Validation,
    read_buffer: usize,
}

#[derive(Deserialize)]
struct Claims {
    sid: String,
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let sessions = match options.form {
        Form::Broadcast => Sessions::Broadcast(broadcast::channel(options.channel).0),
        Form::Index => Sessions::Index(DashMap::new()),
    };
    let gateway = Arc::new(Gateway {
        sessions,
        key: DecodingKey::from_secret(options.secret.as_bytes()),
        validation: Validation::new(Algorithm::HS256),
        read_buffer: options.read_buffer,
    });
    let consumer = consume(&options);
    let app = Router::new().route("/v1/ws", get(upgrade)).with_state(gateway.clone());
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", options.port)).await.expect("the port is free");
    tokio::spawn(async move { axum::serve(listener, app).await.expect("serving") });
    println!("ready");
    fan_out(&gateway.sessions, consumer).await;
}

/// Reads every partition of the topic from its present end.
fn consume(options: &Options) -> StreamConsumer {
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", &options.brokers)
        .set("group.id", "native-gateway")
        .set("enable.auto.commit", "false")
        .set("fetch.queue.backoff.ms", "10")
        .create()
        .expect("a consumer");
    let metadata = consumer.fetch_metadata(Some(&options.topic), Duration::from_secs(10)).expect("the topic");
    let mut partitions = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        let (_, end) = consumer
            .fetch_watermarks(&options.topic, partition.id(), Duration::from_secs(10))
            .expect("the partition's end");
        partitions.add_partition_offset(&options.topic, partition.id(), Offset::Offset(end)).expect("an offset");
    }
    consumer.assign(&partitions).expect("an assignment");
    consumer
}

async fn fan_out(sessions: &Sessions, consumer: StreamConsumer) {
    loop {
        let Ok(message) = consumer.recv().await else { continue };
        let (Some(key), Some(value)) = (message.key(), message.payload()) else { continue };
        let Ok(value) = std::str::from_utf8(value).map(Utf8Bytes::from) else { continue };
        match sessions {
            Sessions::Broadcast(channel) => {
                let _ = channel.send(Arc::new(Record { key: key.into(), value }));
            }
            Sessions::Index(index) => {
                if let Some(session) = index.get(key) {
                    let _ = session.send(value);
                }
            }
        }
    }
}

async fn upgrade(State(gateway): State<Arc<Gateway>>, headers: HeaderMap, socket: WebSocketUpgrade) -> Response {
    let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let claims = token.and_then(|token| decode::<Claims>(token, &gateway.key, &gateway.validation).ok());
    let Some(claims) = claims else { return StatusCode::UNAUTHORIZED.into_response() };
    let session: Box<[u8]> = claims.claims.sid.as_bytes().into();
    socket.read_buffer_size(gateway.read_buffer).on_upgrade(move |socket| async move {
        match &gateway.sessions {
            Sessions::Broadcast(channel) => filtered(socket, session, channel.subscribe()).await,
            Sessions::Index(index) => {
                let (sender, receiver) = mpsc::unbounded_channel();
                index.insert(session.clone(), sender);
                queued(socket, receiver).await;
                index.remove(&session);
            }
        }
    })
}

/// Every connection looks at every record; what it is too slow for, it loses.
async fn filtered(mut socket: WebSocket, session: Box<[u8]>, mut records: broadcast::Receiver<Arc<Record>>) {
    if welcome(&mut socket).await.is_err() {
        return;
    }
    loop {
        tokio::select! {
            received = records.recv() => match received {
                Ok(record) if record.key == session => {
                    if socket.send(Frame::Text(record.value.clone())).await.is_err() {
                        return;
                    }
                }
                Err(broadcast::error::RecvError::Closed) => return,
                _ => {}
            },
            frame = socket.recv() => if !matches!(frame, Some(Ok(_))) { return },
        }
    }
}

/// Each session has its queue; what has gathered there is written at once.
async fn queued(mut socket: WebSocket, mut records: mpsc::UnboundedReceiver<Utf8Bytes>) {
    if welcome(&mut socket).await.is_err() {
        return;
    }
    let (mut sink, mut stream) = socket.split();
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            count = records.recv_many(&mut batch, 1024) => {
                if count == 0 {
                    return;
                }
                for value in batch.drain(..) {
                    if sink.feed(Frame::Text(value)).await.is_err() {
                        return;
                    }
                }
                if sink.flush().await.is_err() {
                    return;
                }
            }
            frame = stream.next() => if !matches!(frame, Some(Ok(_))) { return },
        }
    }
}

async fn welcome(socket: &mut WebSocket) -> Result<(), axum::Error> {
    socket.send(Frame::Text(r#"{"type":"welcome"}"#.into())).await
}
