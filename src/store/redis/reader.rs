//! The one reader of a node: it receives every partition, and fills what it missed from the log.
//!
//! Live frames are delivered only when they are next in sequence. Otherwise (a hole, a reconnect,
//! an overrun, a silent subscription while the log grows) the reader reads the log. Meanwhile fred
//! may drop live frames: they are in the log.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use fred::{
    clients::{Client, SubscriberClient},
    error::{Error, ErrorKind},
    interfaces::{ClientLike, EventInterface, HashesInterface, PubsubInterface},
    types::{Builder, Message as Published, Value},
};
use tokio::{
    sync::{broadcast::Receiver, broadcast::error::RecvError, mpsc},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use crate::store::redis::{
    frame,
    keys::{Keys, SIGNALS},
    link::{COMMAND_TIMEOUT, Component, Status, force_reconnection},
    log,
    node::Node,
    scripts::{self, ECHO, number, text},
    signal,
    tracker::{Tracker, Verdict},
};
use crate::{
    domain::{position::Position, record::Body},
    shutdown::Tasks,
    store::{NodeEvent, log::LogEvent},
};

/// How often the reader's position is compared with the log's.
const CHECK_EVERY: Duration = Duration::from_millis(250);
/// If the log grew and no frame arrived for this long, the subscription is deaf.
const DEAF_AFTER: Duration = Duration::from_secs(1);
const RETRY_EVERY: Duration = Duration::from_millis(100);
/// Frames in one read of the log: bounds the memory of a catch-up and the time of the script. A
/// read that took too long is followed by a smaller one.
const FRAMES_PER_READ_MAX: u64 = 32;
/// Frames taken from the subscription before they are passed on.
const DRAIN_MAX: usize = 64;
/// Longest text that a person may publish with redis-cli.
const EXTERNAL_BYTES_MAX: usize = 64 << 10;

/// Why the reader stops listening and synchronises again, as text for the log.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("this node is stopping")]
    Stopping,
    #[error("the subscription was interrupted")]
    Reconnected,
    #[error("the subscription is deaf: the log moved on and nothing was heard")]
    Deaf,
    #[error("the subscription does not answer")]
    Silent,
    #[error("the subscription is refused: {}", .0.details())]
    Refused(Error),
    #[error("{}", .0.details())]
    Redis(#[from] Error),
}

/// The position after which each partition is received, once the reader has started there.
pub type ReceivingSince = Arc<[OnceLock<Position>]>;

pub struct Reader {
    builder: Builder,
    keys: Vec<Keys>,
    /// The partition on whose channel a person may publish.
    lobby: u16,
    status: Status,
    /// It is told of claims, and of signals that may have been missed or lost.
    node: Arc<Node>,
    out: EventSenders,
    tasks: Tasks,
    trackers: Vec<Tracker>,
    began: ReceivingSince,
    /// When each partition last received a frame.
    heard: Vec<Instant>,
    /// The partition that was found deaf, until it receives a frame again.
    deaf: Option<usize>,
    frames_per_read: u64,
}

/// The channels for what the reader receives.
pub struct EventSenders {
    pub log_sender: mpsc::Sender<Vec<LogEvent>>,
    pub node_sender: mpsc::Sender<NodeEvent>,
}

/// What one read of the subscription returned.
#[derive(Default)]
struct Batch {
    log: Vec<LogEvent>,
    node: Vec<NodeEvent>,
}

/// The connections, which live on the reader's own runtime.
struct Link {
    subscriber: SubscriberClient,
    /// For reading the log: a connection with subscriptions may send only SUBSCRIBE and PING.
    client: Client,
    messages: Receiver<Published>,
    reconnects: Receiver<fred::types::config::Server>,
}

impl Reader {
    pub fn new(
        builder: Builder,
        keys: Vec<Keys>,
        lobby: u16,
        status: Status,
        node: Arc<Node>,
        out: EventSenders,
        tasks: Tasks,
    ) -> Self {
        let heard = vec![Instant::now(); keys.len()];
        let began = keys.iter().map(|_| OnceLock::new()).collect();
        Self {
            builder,
            keys,
            lobby,
            status,
            node,
            out,
            tasks,
            trackers: Vec::new(),
            began,
            heard,
            deaf: None,
            frames_per_read: FRAMES_PER_READ_MAX,
        }
    }

    pub fn began(&self) -> ReceivingSince {
        Arc::clone(&self.began)
    }

    pub async fn run(mut self) {
        let mut link = match self.connect() {
            Ok(link) => link,
            // Cannot fail: the builder has built another client from the same settings.
            Err(error) => return tracing::error!(%error, "the Redis reader cannot be built"),
        };
        loop {
            let trouble = match self.synchronise(&mut link).await {
                Ok(()) => {
                    // A subscription that was deaf must deliver a frame before it counts as
                    // working.
                    match self.deaf {
                        None => self.status.up(Component::Subscription),
                        Some(_) => self.status.down(Component::Subscription, Trouble::Deaf),
                    }
                    self.listen(&mut link).await
                }
                Err(trouble) => trouble,
            };
            match &trouble {
                Trouble::Stopping => break,
                Trouble::Silent | Trouble::Refused(_) | Trouble::Deaf => {
                    force_reconnection(&link.subscriber).await;
                }
                Trouble::Redis(error) if *error.kind() == ErrorKind::Timeout => {
                    self.frames_per_read = (self.frames_per_read / 2).max(1);
                    force_reconnection(&link.client).await;
                }
                Trouble::Reconnected | Trouble::Redis(_) => {}
            }
            tracing::debug!(%trouble, "synchronising with the log");
            self.status.down(Component::Subscription, &trouble);
            if !matches!(trouble, Trouble::Reconnected | Trouble::Deaf) {
                tokio::select! {
                    () = sleep(RETRY_EVERY) => {}
                    () = self.tasks.stopping() => break,
                }
            }
        }
        self.deliver_the_rest(&link).await;
    }

    fn connect(&self) -> Result<Link, Error> {
        let (subscriber, client) = (self.builder.build_subscriber_client()?, self.builder.build()?);
        let (messages, reconnects) = (subscriber.message_rx(), subscriber.reconnect_rx());
        subscriber.connect();
        client.connect();
        Ok(Link { subscriber, client, messages, reconnects })
    }

    /// Subscribes, confirms that, and only then reads the log: no frame can fall between the two.
    async fn synchronise(&mut self, link: &mut Link) -> Result<(), Trouble> {
        let connected = async {
            link.subscriber.wait_for_connect().await?;
            link.client.wait_for_connect().await
        };
        tokio::select! {
            connected = connected => connected?,
            () = self.tasks.stopping() => return Err(Trouble::Stopping),
        }
        while link.reconnects.try_recv().is_ok() {}
        for keys in &self.keys {
            if link.subscriber.is_clustered() {
                link.subscriber.ssubscribe(keys.channel()).await?;
                link.subscriber.ssubscribe(keys.signals()).await?;
            } else {
                link.subscriber.subscribe(keys.channel()).await?;
                link.subscriber.subscribe(keys.signals()).await?;
            }
        }
        link.subscriber.subscribe(self.node.sessions.channel.clone()).await?;
        // `subscribe` returns when the command is written; a pong comes after Redis has executed
        // it.
        ping(&link.subscriber).await?;
        self.report_possible_loss(0..self.trackers.len()).await?;
        for index in 0..self.keys.len() {
            self.catch_up(&link.client, index).await?;
        }
        Ok(())
    }

    /// Signals and claims may have been missed, and the log does not have them. A partition from
    /// which nothing was ever received has none to lose.
    async fn report_possible_loss(
        &self,
        partitions: impl Iterator<Item = usize>,
    ) -> Result<(), Trouble> {
        self.node.beat_now();
        let lost = |index| NodeEvent::SignalsLost { partition: number_of(index) };
        self.send_node_events(partitions.map(lost)).await
    }

    /// Delivers until something goes wrong.
    async fn listen(&mut self, link: &mut Link) -> Trouble {
        let mut checks = interval(CHECK_EVERY);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let outcome = tokio::select! {
                heard = link.messages.recv() => self.hear(link, heard).await,
                // fred reports the first connection too, but `synchronise` has already waited for
                // that one.
                _ = link.reconnects.recv() => Err(Trouble::Reconnected),
                _ = checks.tick() => self.check(link).await,
                () = self.tasks.stopping() => Err(Trouble::Stopping),
            };
            if let Err(trouble) = outcome {
                return trouble;
            }
        }
    }

    async fn hear(
        &mut self,
        link: &mut Link,
        first: Result<Published, RecvError>,
    ) -> Result<(), Trouble> {
        let mut out = Batch::default();
        let mut next = match first {
            Ok(published) => Some(published),
            Err(RecvError::Lagged(missed)) => return self.overrun(link, missed).await,
            Err(RecvError::Closed) => return Err(Trouble::Silent),
        };
        // Without this loop fred receives faster than this task takes, and overwrites the queue.
        let mut taken = 0;
        while let Some(published) = next {
            if let Err(index) = self.take(&published, &mut out) {
                self.deliver(&mut out.log).await?;
                self.catch_up(&link.client, index).await?;
            }
            taken += 1;
            next = if taken < DRAIN_MAX { link.messages.try_recv().ok() } else { None };
        }
        self.deliver(&mut out.log).await?;
        self.send_node_events(out.node).await
    }

    async fn overrun(&mut self, link: &Link, missed: u64) -> Result<(), Trouble> {
        tracing::debug!(missed, "the subscription overran; reading the log");
        self.report_possible_loss(0..self.trackers.len()).await?;
        for index in 0..self.keys.len() {
            self.catch_up(&link.client, index).await?;
        }
        Ok(())
    }

    /// `Err` is the partition whose log must be read.
    fn take(&mut self, published: &Published, out: &mut Batch) -> Result<(), usize> {
        let channel = &*published.channel;
        if channel == self.node.sessions.channel {
            self.node.sessions.heard(text(&published.value).unwrap_or_default());
            return Ok(());
        }
        let (channel, signals) = match channel.strip_suffix(SIGNALS) {
            Some(channel) => (channel, true),
            None => (channel, false),
        };
        let Some(index) = self.keys.iter().position(|keys| keys.channel == channel) else {
            return Ok(());
        };
        let Some(said) = text(&published.value) else {
            tracing::warn!(channel, "ignored something that is not text on the channel");
            return Ok(());
        };
        if signals {
            signal::heard(said, &mut out.node);
            return Ok(());
        }
        let (Some(tracker), Some(heard)) =
            (self.trackers.get_mut(index), self.heard.get_mut(index))
        else {
            return Ok(());
        };
        let Some((header, lines)) = frame::split(said) else {
            if tracker.partition == self.lobby {
                external(said, &mut out.log);
            }
            return Ok(());
        };
        *heard = Instant::now();
        if self.deaf == Some(index) {
            self.deaf = None;
            self.status.up(Component::Subscription);
        }
        match tracker.judge(&header, said) {
            Verdict::Deliver => tracker.take(&header, lines, said, &mut out.log),
            Verdict::Known => {}
            Verdict::ReadLog => return Err(index),
        }
        Ok(())
    }

    /// Compares positions with the log, and tests a subscription that is silent.
    async fn check(&mut self, link: &mut Link) -> Result<(), Trouble> {
        for index in 0..self.keys.len() {
            let Some((keys, tracker)) = self.keys.get(index).zip(self.trackers.get(index)) else {
                continue;
            };
            let meta: Vec<Option<String>> = link.client.hmget(keys.meta(), vec!["e", "s"]).await?;
            let epoch = meta.first().cloned().flatten();
            let top = meta.get(1).cloned().flatten().and_then(|seq| seq.parse().ok());
            let same_epoch = epoch.as_deref() == Some(tracker.epoch.as_str());
            let behind = top.is_some_and(|top: u64| top > tracker.last);
            let silent = self.heard.get(index).is_none_or(|heard| heard.elapsed() > DEAF_AFTER);
            if !same_epoch || top.is_none_or(|top| top < tracker.last) {
                self.catch_up(&link.client, index).await?;
            } else if (behind || self.deaf == Some(index)) && silent && link.messages.is_empty() {
                // A frame may still be arriving. It is missing only if the pong comes before it.
                ping(&link.subscriber).await?;
                if link.messages.is_empty() {
                    if self.deaf.replace(index).is_none() {
                        tracing::warn!("the Redis subscription receives nothing; trying again");
                    }
                    return Err(Trouble::Deaf);
                }
            }
        }
        if let Some(index) = self.deaf {
            self.publish_newest_again(link, index).await?;
        }
        if self.heard.iter().all(|heard| heard.elapsed() > DEAF_AFTER) {
            ping(&link.subscriber).await?;
        }
        Ok(())
    }

    /// Publishes the newest frame of the log again. Only a message shows whether a subscription
    /// works, and every other node ignores a frame that it knows.
    async fn publish_newest_again(&mut self, link: &Link, index: usize) -> Result<(), Error> {
        let Some(keys) = self.keys.get(index) else { return Ok(()) };
        let publish = if link.subscriber.is_clustered() { "SPUBLISH" } else { "PUBLISH" };
        let arguments = [publish.to_owned(), keys.channel()];
        let said = scripts::run(&link.client, &ECHO, vec![keys.log()], arguments).await?;
        if said.first().and_then(number) == Some(0) {
            // There is no frame to publish: the log has been trimmed or lost.
            self.deaf = None;
            self.status.up(Component::Subscription);
        }
        Ok(())
    }

    /// Delivers from the log until its end.
    async fn catch_up(&mut self, client: &Client, index: usize) -> Result<(), Trouble> {
        let Some(keys) = self.keys.get(index).cloned() else { return Ok(()) };
        loop {
            let Some(tracker) = self.trackers.get_mut(index) else {
                // The first read of this partition: records up to here were stored before this node
                // started.
                let log = log::read(client, &keys, 0, "", 0).await?;
                let partition = number_of(index);
                let began = Position { epoch: log.epoch.clone(), seq: log.top };
                self.began[index].get_or_init(|| began);
                self.trackers.push(Tracker::new(partition, log.epoch, log.top));
                return Ok(());
            };
            let log =
                log::read(client, &keys, tracker.last, tracker.anchor(), self.frames_per_read)
                    .await?;
            let mut out = Vec::new();
            if log.epoch != tracker.epoch {
                // If Redis lost the log, it may have lost sessions and rosters too.
                self.node.forgotten(index);
                self.report_possible_loss(std::iter::once(index)).await?;
                let Some(tracker) = self.trackers.get_mut(index) else { return Ok(()) };
                let common = log::common(client, &keys, tracker.remembered()).await?;
                tracker.begin(log.epoch, common, &mut out);
                self.deliver(&mut out).await?;
                continue;
            }
            if log.top < tracker.last || log.rolled_back {
                tracing::warn!(
                    last = tracker.last,
                    top = log.top,
                    "Redis lost messages that it had confirmed; beginning a new epoch"
                );
                log::bump(client, &keys, &tracker.epoch).await?;
                continue;
            }
            let before = tracker.last;
            tracker.take_read(&log, &mut out);
            let done = tracker.last >= log.top || tracker.last == before;
            if done {
                tracker.fresh_epoch = false;
            }
            self.deliver(&mut out).await?;
            if done {
                self.frames_per_read = FRAMES_PER_READ_MAX;
                if let Some(heard) = self.heard.get_mut(index) {
                    *heard = Instant::now();
                }
                return Ok(());
            }
        }
    }

    /// Waits for the relay. Meanwhile the subscription may overrun; the log then fills the hole.
    async fn deliver(&self, out: &mut Vec<LogEvent>) -> Result<(), Trouble> {
        if out.is_empty() {
            return Ok(());
        }
        let sent = self.out.log_sender.send(std::mem::take(out)).await;
        sent.map_err(|_relay_is_gone| Trouble::Stopping)
    }

    async fn send_node_events(
        &self,
        events: impl IntoIterator<Item = NodeEvent>,
    ) -> Result<(), Trouble> {
        for event in events {
            let sent = self.out.node_sender.send(event).await;
            sent.map_err(|_receiver_is_gone| Trouble::Stopping)?;
        }
        Ok(())
    }

    /// A stopping node still delivers the messages that it has appended.
    async fn deliver_the_rest(&mut self, link: &Link) {
        for index in 0..self.trackers.len() {
            let last = timeout(COMMAND_TIMEOUT, self.catch_up(&link.client, index)).await;
            if !matches!(last, Ok(Ok(()))) {
                tracing::debug!("the end of the log could not be read before stopping");
            }
        }
        for quit in [link.subscriber.quit().await, link.client.quit().await] {
            if let Err(error) = quit {
                tracing::debug!(%error, "Redis disconnected before the connection was closed");
            }
        }
    }
}

fn number_of(index: usize) -> u16 {
    u16::try_from(index).expect("partitions are counted by an u16")
}

/// A text published by a person: valid JSON as JSON, anything else as a string.
fn external(said: &str, out: &mut Vec<LogEvent>) {
    if said.len() > EXTERNAL_BYTES_MAX {
        return tracing::warn!(bytes = said.len(), "ignored a channel text that is too long");
    }
    let json = match serde_json::from_str::<serde::de::IgnoredAny>(said) {
        Ok(_) => said.trim().to_owned(),
        Err(_no_json) => serde_json::Value::from(said).to_string(),
    };
    out.push(LogEvent::External(Body::from_json(&json)));
}

async fn ping(subscriber: &SubscriberClient) -> Result<(), Trouble> {
    match timeout(COMMAND_TIMEOUT, subscriber.ping::<Value>(None)).await {
        Ok(Ok(_pong)) => Ok(()),
        // fred gives Redis's error for a refused SUBSCRIBE to the next command.
        Ok(Err(error)) if error.details().starts_with("NOPERM") => Err(Trouble::Refused(error)),
        Ok(Err(_)) | Err(_) => Err(Trouble::Silent),
    }
}
