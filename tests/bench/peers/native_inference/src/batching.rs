//! The queue and the threads that take batches from it: the first request that is there, and all that come within the wait.

use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{bounded, Receiver, Sender};
use ort::session::Session;
use ort::value::TensorRef;
use tokio::sync::oneshot;

use crate::images::Decoder;
use crate::Options;

/// One row of the model's input, and where its output goes.
pub struct Job {
    pub input: Input,
    pub answer: oneshot::Sender<Vec<f32>>,
}

pub enum Input {
    /// Floats in the machine's order.
    Raw(Bytes),
    Numbers(Vec<f32>),
    Jpeg(Bytes),
}

#[derive(Clone)]
pub struct Queue {
    jobs: Sender<Job>,
}

impl Queue {
    /// The model's output for a row; None where it failed.
    pub async fn infer(&self, input: Input) -> Option<Vec<f32>> {
        let (answer, answered) = oneshot::channel();
        self.jobs.try_send(Job { input, answer }).ok()?;
        answered.await.ok()
    }
}

/// Load the model and start the threads.
pub fn start(options: &Options) -> Queue {
    let environment = ort::init_from(&options.runtime).expect("onnxruntime").build().expect("environment");
    let (jobs, waiting) = bounded(65_536);
    for _ in 0..options.workers {
        // `ort` lets one thread at a time run a session.
        let session = Session::builder(&environment)
            .and_then(|builder| Ok(builder.with_intra_threads(1)?.commit_from_file(&options.model)?))
            .expect("the model");
        let worker = Worker {
            session,
            waiting: waiting.clone(),
            shape: options.shape.clone(),
            batch: options.batch,
            wait: Duration::from_micros(options.wait_us),
            decoder: options.image.then(|| Decoder::new(&options.shape)),
        };
        thread::spawn(move || worker.run());
    }
    Queue { jobs }
}

struct Worker {
    session: Session,
    waiting: Receiver<Job>,
    shape: Vec<i64>,
    batch: usize,
    wait: Duration,
    decoder: Option<Decoder>,
}

impl Worker {
    fn run(mut self) {
        let row = self.shape.iter().product::<i64>() as usize;
        let mut gathered: Vec<f32> = Vec::new();
        let mut jobs = Vec::new();
        while let Ok(first) = self.waiting.recv() {
            jobs.push(first);
            let end = Instant::now() + self.wait;
            while jobs.len() < self.batch {
                let next = if self.wait.is_zero() {
                    self.waiting.try_recv().ok()
                } else {
                    self.waiting.recv_deadline(end).ok()
                };
                match next {
                    Some(job) => jobs.push(job),
                    None => break,
                }
            }
            // What came alone, and lies as floats have to, is not copied.
            if let [Job { input: Input::Raw(data), .. }] = &jobs[..] {
                let data = data.clone();
                match bytemuck::try_cast_slice::<u8, f32>(&data) {
                    Ok(values) if values.len() == row => {
                        self.answer(&mut jobs, values);
                        jobs.clear();
                        continue;
                    }
                    _ => (),
                }
            }
            gathered.clear();
            // A job that doesn't fit is dropped: its caller hears of it.
            let decoder = &mut self.decoder;
            jobs.retain(|job| {
                let before = gathered.len();
                match (&job.input, decoder.as_mut()) {
                    (Input::Raw(data), None) => {
                        gathered.extend(data.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])))
                    }
                    (Input::Numbers(data), None) => gathered.extend_from_slice(data),
                    (Input::Jpeg(data), Some(decoder)) => decoder.decode(data, &mut gathered),
                    _ => (),
                }
                let fits = gathered.len() == before + row;
                gathered.truncate(if fits { before + row } else { before });
                fits
            });
            if !jobs.is_empty() {
                self.answer(&mut jobs, &gathered);
            }
            jobs.clear();
        }
    }

    fn answer(&mut self, jobs: &mut Vec<Job>, gathered: &[f32]) {
        let shape: Vec<i64> = std::iter::once(jobs.len() as i64).chain(self.shape.iter().copied()).collect();
        let input = TensorRef::from_array_view((shape, gathered)).expect("a tensor");
        let Ok(outputs) = self.session.run(ort::inputs![input]) else { return };
        let Ok((_, values)) = outputs[0].try_extract_tensor::<f32>() else { return };
        let each = values.len() / jobs.len();
        for (job, row) in jobs.drain(..).zip(values.chunks(each)) {
            let _ = job.answer.send(row.to_vec());
        }
    }
}
