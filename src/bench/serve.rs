//! What a service does under load: clients that each ask for one picture after another.

use super::model::{GUIDANCE, PROMPT, SCHEDULER};
use super::report::{Row, Subject, Suite, TimedBy};
use super::statistics::{median, quantile};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What the clients ask for.
#[derive(Debug, Clone)]
pub struct Load {
    /// Of the service, such as `http://127.0.0.1:7860`.
    pub url: String,
    /// That the service asks for.
    pub key: Option<String>,
    pub clients: usize,
    pub time: Duration,
    pub model: String,
    /// Side of the square pictures, in pixels.
    pub side: usize,
    pub steps: usize,
}

/// One picture as its client saw it.
struct Answer {
    /// From sending the request to the last byte.
    latency: f64,
    /// Of that, what was not spent on drawing: in the queue, mostly.
    queue: f64,
}

/// How long a client that was refused waits before it asks again.
const PAUSE: Duration = Duration::from_millis(100);

impl Load {
    fn body(&self, seed: usize) -> serde_json::Value {
        serde_json::json!({
            "prompt": PROMPT,
            "negative_prompt": "",
            "scheduler": SCHEDULER,
            "guidance_scale": GUIDANCE,
            "num_inference_steps": self.steps,
            "img_width": self.side,
            "img_height": self.side,
            "seed": seed,
            "refiner": false,
            "base64": false,
        })
    }

    /// One picture by the `sdxl-torch` API; `None` where it was refused.
    fn ask(&self, agent: &ureq::Agent, seed: usize) -> Result<Option<Answer>> {
        let fail = |problem: String| {
            let remedy = "look at the service's log";
            Error::file(&self.url, problem, remedy)
        };
        let start = Instant::now();
        let url = format!("{}/v1/sdxl-torch", self.url);
        let mut post = agent.post(url).content_type("application/json");
        if let Some(key) = &self.key {
            post = post.header("x-api-key", key);
        }
        let sent = post.send(self.body(seed).to_string());
        let mut answer = sent.map_err(|e| fail(e.to_string()))?;
        let status = answer.status().as_u16();
        let drawn = answer.headers().get("x-generation-time").cloned();
        let body = answer.body_mut().with_config().limit(1 << 30).read_to_vec();
        let body = body.map_err(|e| fail(e.to_string()))?;
        let latency = start.elapsed().as_secs_f64();
        match status {
            200 => {
                let drawn = drawn.and_then(|value| value.to_str().ok()?.parse::<f64>().ok());
                let drawn =
                    drawn.ok_or_else(|| fail("no time of generation in the answer".into()))?;
                Ok(Some(Answer {
                    latency,
                    queue: (latency - drawn).max(0.0),
                }))
            }
            429 | 503 => Ok(None),
            _ => {
                let text = String::from_utf8_lossy(&body);
                let text: String = text.chars().take(300).collect();
                Err(fail(format!("it answers {status}: {text}")))
            }
        }
    }

    /// Asks for as long as the time lasts, and waits for the last answers.
    ///
    /// # Errors
    /// A service that cannot be reached or that refuses what is asked for;
    /// [`Error::Cancelled`].
    pub fn run(&self, cancelled: &(dyn Fn() -> bool + Sync)) -> Result<Row> {
        let answers = Mutex::new(Vec::new());
        let trouble = Mutex::new(None);
        let refused = AtomicUsize::new(0);
        let seed = AtomicUsize::new(0);
        let start = Instant::now();
        let client = || {
            let agent: ureq::Agent = ureq::Agent::config_builder()
                .http_status_as_error(false)
                .proxy(None)
                .build()
                .into();
            // One picture at the least, however short the time.
            let mut asked = false;
            while !asked || (start.elapsed() < self.time && !cancelled()) {
                asked = true;
                let number = seed.fetch_add(1, Ordering::Relaxed);
                match self.ask(&agent, number) {
                    Ok(Some(answer)) => {
                        let mut all = answers.lock().unwrap_or_else(|e| e.into_inner());
                        all.push(answer);
                    }
                    Ok(None) => {
                        refused.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(PAUSE);
                    }
                    Err(error) => {
                        let mut slot = trouble.lock().unwrap_or_else(|e| e.into_inner());
                        slot.get_or_insert(error);
                        return;
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.clients {
                scope.spawn(client);
            }
        });
        if let Some(error) = trouble.into_inner().unwrap_or_else(|e| e.into_inner()) {
            return Err(error);
        }
        if cancelled() {
            return Err(Error::Cancelled);
        }
        let answers = answers.into_inner().unwrap_or_else(|e| e.into_inner());
        self.row(
            &answers,
            refused.into_inner(),
            start.elapsed().as_secs_f64(),
        )
    }

    fn row(&self, answers: &[Answer], refused: usize, seconds: f64) -> Result<Row> {
        let latencies: Vec<f64> = answers.iter().map(|a| a.latency).collect();
        let queues: Vec<f64> = answers.iter().map(|a| a.queue).collect();
        let subject = Subject {
            shape: Some(format!("{0}x{0}", self.side)),
            model: Some(self.model.clone()),
            batch: Some(self.clients),
            steps: Some(self.steps),
            ..Subject::new(Suite::Serve, "sdxl-torch API")
        };
        let figures = BTreeMap::from([
            (
                "pictures_per_minute".to_string(),
                60.0 * answers.len() as f64 / seconds,
            ),
            ("p95_seconds".into(), quantile(&latencies, 0.95)),
            ("p99_seconds".into(), quantile(&latencies, 0.99)),
            ("queue_p50_seconds".into(), median(&queues)),
            ("queue_p95_seconds".into(), quantile(&queues, 0.95)),
            ("refused".into(), refused as f64),
        ]);
        let row = Row::new(subject, TimedBy::Wall, latencies);
        let row = row.ok_or_else(|| {
            let problem = format!("no picture in {seconds:.0} s, {refused} requests refused");
            Error::file(
                &self.url,
                problem,
                "give it more time (--seconds), or smaller pictures",
            )
        })?;
        Ok(Row { figures, ..row })
    }
}
