//! The connection to NATS, and what is kept there.

use crate::server::config::{BrokerUrl, Config};
use crate::{Error, Result};
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::object_store::{self, ObjectStore};
use async_nats::jetstream::stream::{
    self, DiscardPolicy, RawMessageErrorKind, RetentionPolicy, StorageType, Stream,
};
use async_nats::jetstream::{self, kv};
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// How often a task is given out at the most, before it is dead.
pub const DELIVERIES: u64 = 5;

const PAUSE: Duration = Duration::from_millis(500);

/// Tasks that no worker takes and results that nobody fetches are kept so long.
const KEPT: Duration = Duration::from_secs(3600);
const DEAD_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// A worker that says nothing for so long is gone.
pub const CARD_LASTS: Duration = Duration::from_secs(15);

const WORK: &str = "CALOTYPE_WORK";
const RESULTS: &str = "CALOTYPE_RESULTS";
const DEAD: &str = "CALOTYPE_DEAD";
const OBJECTS: &str = "calotype-pictures";
const WORKERS: &str = "calotype-workers";

const REMEDY: &str = "give nats-server JetStream (-js), and this user the rights of \
                      tools/service/nats.conf";

/// Where workers ask whether they may join.
pub const JOIN: &str = "calotype.join";

/// The version of the program as a part of a name. Tasks go to workers of their front end's
/// version alone: others may draw other pictures.
fn version() -> String {
    env!("CARGO_PKG_VERSION").replace('.', "_")
}

/// Where tasks for a model go.
pub fn work(model: &str) -> String {
    format!("calotype.work.{}.{model}", version())
}

/// Where a front end hears results.
pub fn result(front: &str) -> String {
    format!("calotype.result.{front}")
}

/// Where a front end is asked.
pub fn front(front: &str) -> String {
    format!("calotype.front.{front}")
}

/// Where a front end hears previews.
pub fn preview(front: &str) -> String {
    format!("calotype.preview.{front}")
}

/// Where a worker is told what to do.
pub fn word(worker: &str) -> String {
    format!("calotype.word.{worker}")
}

/// Where tasks go that were given out too often.
pub fn dead(model: &str) -> String {
    format!("calotype.dead.{model}")
}

/// A connection to the broker, with what is kept there; clones share it.
#[derive(Clone)]
pub struct Broker {
    pub client: Client,
    pub jetstream: jetstream::Context,
    pub work: Stream,
    pub results: Stream,
    pub dead: Stream,
    pub objects: ObjectStore,
    pub workers: kv::Store,
    /// How long a worker may be silent before its task goes to another one.
    pub lease: Duration,
    up: Arc<AtomicBool>,
}

impl Broker {
    /// Connects as `name`, and makes what is not there yet.
    ///
    /// # Errors
    /// The broker cannot be reached, refuses the credentials, or has no JetStream.
    pub async fn connect(url: &BrokerUrl, config: &Config, name: &str) -> Result<Self> {
        let up = Arc::new(AtomicBool::new(true));
        let client = connect(url, config, name, &up).await?;
        let jetstream = jetstream::context::ContextBuilder::new()
            .timeout(Duration::from_secs(5))
            .build(client.clone());
        let kept = |problem: String| Error::file(url.to_string(), problem, REMEDY);
        let [work, results, dead] = keep(&jetstream).await.map_err(kept)?;
        let refused = |error: &dyn std::fmt::Display| {
            let problem = format!("the broker refused: {error}");
            Error::file(url.to_string(), problem, REMEDY)
        };
        let objects = jetstream.get_object_store(OBJECTS).await;
        let objects = objects.map_err(|e| refused(&e))?;
        let workers = jetstream.get_key_value(WORKERS).await;
        let workers = workers.map_err(|e| refused(&e))?;
        Ok(Self {
            client,
            jetstream,
            work,
            results,
            dead,
            objects,
            workers,
            lease: Duration::from_secs(config.lease),
            up,
        })
    }

    /// Makes again what is kept there, where the broker has lost it.
    pub async fn renew(&self) {
        if self.is_up()
            && let Err(error) = keep(&self.jetstream).await
        {
            tracing::warn!("the broker keeps nothing: {error}");
        }
    }

    /// Whether the connection stands.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Whether the task at this place of the stream is there still; true where that cannot
    /// be told now.
    pub async fn has_task(&self, place: u64) -> bool {
        match self.work.get_raw_message(place).await {
            Ok(_) => true,
            Err(error) => match error.kind() {
                RawMessageErrorKind::NoMessageFound => false,
                RawMessageErrorKind::JetStream(_) => {
                    self.renew().await;
                    false
                }
                _ => true,
            },
        }
    }

    /// What brings tasks for a model; all workers share it.
    ///
    /// # Errors
    /// The broker does not answer or refuses.
    pub async fn tasks(&self, model: &str) -> Result<PullConsumer, async_nats::Error> {
        let name = format!("work-{}-{model}", version());
        let config = pull::Config {
            durable_name: Some(name),
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.lease,
            // One more, which says that it is dead.
            max_deliver: DELIVERIES as i64 + 1,
            filter_subject: work(model),
            ..Default::default()
        };
        Ok(self.work.create_consumer(config).await?)
    }

    /// What brings the results for a front end.
    ///
    /// # Errors
    /// The broker does not answer or refuses.
    pub async fn results_of(&self, front: &str) -> Result<PullConsumer, async_nats::Error> {
        let config = pull::Config {
            durable_name: Some(format!("front-{front}")),
            ack_policy: AckPolicy::Explicit,
            ack_wait: Duration::from_secs(30),
            filter_subject: result(front),
            // It goes with its front end.
            inactive_threshold: KEPT,
            ..Default::default()
        };
        Ok(self.results.create_consumer(config).await?)
    }

    /// Hears what is published to a subject.
    pub fn hear(&self, subject: impl Into<String>) -> Ear {
        Ear {
            client: self.client.clone(),
            subject: subject.into(),
            messages: None,
        }
    }

    /// Keeps a file.
    ///
    /// # Errors
    /// The broker does not answer or has no room.
    pub async fn put(&self, name: &str, bytes: &[u8]) -> Result<(), async_nats::Error> {
        self.objects.put(name, &mut &bytes[..]).await?;
        Ok(())
    }

    /// A file that was kept; its digest is checked.
    ///
    /// # Errors
    /// It is not there or damaged, or the broker does not answer.
    pub async fn get(&self, name: &str) -> Result<Bytes, async_nats::Error> {
        let mut object = self.objects.get(name).await?;
        let mut bytes = Vec::with_capacity(object.info.size);
        object.read_to_end(&mut bytes).await?;
        Ok(bytes.into())
    }

    /// Removes files that nobody needs any more; one that stays is removed with time.
    pub async fn forget(&self, names: Vec<String>) {
        for name in names {
            let _ = self.objects.delete(name).await;
        }
    }
}

/// Makes the streams that are not there: of tasks, results, dead tasks, and below them those
/// of the object store and the workers' cards.
async fn keep(jetstream: &jetstream::Context) -> Result<[Stream; 3], String> {
    let kept = |name: &str, subjects: &str, retention| stream::Config {
        name: name.into(),
        subjects: vec![subjects.into()],
        retention,
        storage: StorageType::File,
        max_age: match name {
            DEAD => DEAD_KEPT,
            _ => KEPT,
        },
        duplicate_window: Duration::from_secs(120),
        ..Default::default()
    };
    // Not by `create_key_value`, which asks for what servers before 2.10 do not tell.
    let cards = stream::Config {
        name: format!("KV_{WORKERS}"),
        subjects: vec![format!("$KV.{WORKERS}.>")],
        max_messages_per_subject: 1,
        max_age: CARD_LASTS,
        duplicate_window: CARD_LASTS,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        allow_direct: true,
        deny_delete: true,
        ..Default::default()
    };
    let objects = object_store::Config {
        bucket: OBJECTS.into(),
        max_age: KEPT,
        ..Default::default()
    };
    let open = async |config| {
        let stream = jetstream.get_or_create_stream(config).await;
        stream.map_err(|e| format!("the broker refused: {e}"))
    };
    let work = kept(WORK, "calotype.work.>", RetentionPolicy::WorkQueue);
    let results = kept(RESULTS, "calotype.result.*", RetentionPolicy::WorkQueue);
    let dead = kept(DEAD, "calotype.dead.*", RetentionPolicy::Limits);
    open(cards).await?;
    let made = jetstream.create_object_store(objects).await;
    made.map_err(|e| format!("the broker refused: {e}"))?;
    Ok([open(work).await?, open(results).await?, open(dead).await?])
}

/// Hears a subject, and subscribes to it again where that ends.
pub struct Ear {
    client: Client,
    subject: String,
    messages: Option<Subscriber>,
}

impl Ear {
    pub async fn next(&mut self) -> Message {
        loop {
            if let Some(messages) = &mut self.messages
                && let Some(message) = messages.next().await
            {
                return message;
            }
            match self.client.subscribe(self.subject.clone()).await {
                Ok(messages) => self.messages = Some(messages),
                Err(error) => {
                    tracing::warn!("nothing is heard of {}: {error}", self.subject);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

async fn connect(
    url: &BrokerUrl,
    config: &Config,
    name: &str,
    up: &Arc<AtomicBool>,
) -> Result<Client> {
    let (shown, known) = (url.to_string(), up.clone());
    let mut options = ConnectOptions::new()
        .name(name)
        .connection_timeout(Duration::from_secs(5))
        .request_timeout(Some(Duration::from_secs(5)))
        .event_callback(move |event| {
            match &event {
                Event::Connected => known.store(true, Ordering::Relaxed),
                Event::Disconnected | Event::Closed => known.store(false, Ordering::Relaxed),
                _ => {}
            }
            let shown = shown.clone();
            async move {
                match event {
                    Event::Connected => tracing::info!("the broker {shown} is connected"),
                    other => tracing::warn!("the broker {shown}: {other}"),
                }
            }
        });
    if let Some(path) = &config.broker_credentials {
        options = options.credentials_file(path).await.map_err(|e| {
            let remedy = "name a file of credentials as `nsc generate creds` writes it";
            Error::file(path, e, remedy)
        })?;
    }
    if let Some((user, password)) = url.user() {
        options = options.user_and_password(user, password);
    }
    if let Some(path) = &config.broker_ca {
        options = options
            .add_root_certificates(path.clone())
            .require_tls(true);
    }
    options.connect(url.servers()).await.map_err(|error| {
        let remedy = match (error.kind(), tls_error(&error)) {
            (ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication, _) => {
                "give the user's name and password in the URL (nats://USER:PASSWORD@HOST), or \
                 --broker-credentials FILE"
            }
            (_, Some(rustls::Error::InvalidCertificate(_))) => {
                "name the authority of the server's certificate by --broker-ca FILE, and the \
                 server by a name that stands in the certificate"
            }
            (ConnectErrorKind::Tls, _) | (_, Some(_)) => {
                "give nats-server a certificate (tls { cert_file, key_file }), or ask for no TLS"
            }
            _ => "start nats-server there, or name where it is",
        };
        Error::file(
            url.to_string(),
            format!("the broker cannot be used: {error}"),
            remedy,
        )
    })
}

/// What TLS says where that is why there is no connection.
fn tls_error(error: &async_nats::ConnectError) -> Option<&rustls::Error> {
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        let error = match error.downcast_ref::<std::io::Error>() {
            Some(io) => io.get_ref()? as &(dyn std::error::Error + 'static),
            None => error,
        };
        if let Some(tls) = error.downcast_ref() {
            return Some(tls);
        }
        next = error.source();
    }
    None
}
