//! Lanes on a stream in memory that takes exactly as many bytes as a test says.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use proptest::prelude::{Strategy, any, prop, prop_oneof, proptest};
use socketioxide_core::{Sid, Value};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{advance, pause},
};

use crate::{
    shutdown::Tasks,
    transport::{
        close::CloseReason,
        connect_reply::ConnectReply,
        frame,
        lane::{Busy, InFlight, Lane},
        lane_stream::LaneStream,
        registry::Registry,
        settings::TransportSettings,
        stream::Stream,
        supervisor,
    },
};

#[derive(Debug, Default)]
struct Wire {
    takes: usize,
    written: Vec<u8>,
    brings: Vec<u8>,
    writer: Option<Waker>,
}

/// The server's end of a connection in memory.
#[derive(Debug, Clone, Default)]
struct Memory(Arc<Mutex<Wire>>);

impl Memory {
    fn take(&self, bytes: usize) {
        let mut wire = self.0.lock().unwrap();
        wire.takes = wire.takes.saturating_add(bytes);
        if let Some(writer) = wire.writer.take() {
            writer.wake();
        }
    }

    fn written(&self) -> Vec<u8> {
        self.0.lock().unwrap().written.clone()
    }
}

impl AsyncRead for Memory {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut wire = self.0.lock().unwrap();
        if wire.brings.is_empty() {
            return Poll::Pending;
        }
        let count = wire.brings.len().min(into.remaining());
        into.put_slice(&wire.brings[..count]);
        wire.brings.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Memory {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut wire = self.0.lock().unwrap();
        let count = wire.takes.min(bytes.len());
        if count == 0 {
            wire.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        wire.takes -= count;
        wire.written.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

struct Bench {
    memory: Memory,
    lane: Arc<Lane>,
    stream: LaneStream,
    registry: Registry,
    tasks: Tasks,
}

impl Bench {
    fn new(settings: TransportSettings) -> Self {
        let bench = Self::unsupervised(settings);
        bench.end_polling_with(|_sid| Box::pin(std::future::ready(())));
        bench
    }

    fn unsupervised(settings: TransportSettings) -> Self {
        let tasks = Tasks::default();
        let registry = Registry::new(settings, &tasks);
        let memory = Memory::default();
        let stream = Stream::Other(Box::pin(memory.clone()));
        let lane = Lane::new(stream, Bytes::new(), None, None);
        let stream = LaneStream::new(Arc::clone(&lane), registry.clone());
        Self { memory, lane, stream, registry, tasks }
    }

    /// Starts the supervisor.
    fn end_polling_with(
        &self,
        end_polling: impl FnMut(Sid) -> BoxFuture<'static, ()> + Send + 'static,
    ) {
        self.tasks.spawn("supervisor", supervisor::run(self.registry.clone(), end_polling));
    }

    fn live(settings: TransportSettings) -> Self {
        let mut bench = Self::new(settings);
        let marker = bench.marker();
        bench.own(&marker).unwrap();
        bench
    }

    fn deliver(&self, stamp: u64, chunks: &[Bytes]) {
        let effects = self.lane.deliver(stamp, chunks, self.registry.settings());
        self.registry.carry_out(&self.lane, effects);
    }

    fn begin(&self) -> Result<InFlight, Busy> {
        self.lane.begin(self.registry.settings())
    }

    /// The next marker, as the engine writes it.
    fn marker(&self) -> Bytes {
        let event = self.lane.marker().expect("the lane waits for a marker");
        frame::encode(&Value::Str(format!("2{event}").into(), None))
    }

    fn own(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(&mut self.stream).poll_write(&mut cx, bytes) {
            Poll::Ready(written) => {
                assert_eq!(written?, bytes.len(), "a lane takes everything");
                Ok(())
            }
            Poll::Pending => panic!("a lane never lets the engine wait"),
        }
    }

    /// Reads, as the reader's task does when it is woken.
    fn read(&mut self) -> Poll<io::Result<usize>> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut room = [0; 256];
        let mut room = ReadBuf::new(&mut room);
        Pin::new(&mut self.stream)
            .poll_read(&mut cx, &mut room)
            .map(|read| read.map(|()| room.filled().len()))
    }
}

fn text(length: usize, fill: u8) -> Bytes {
    frame::encode(&Value::Str(String::from_utf8(vec![fill; length]).unwrap().into(), None))
}

#[derive(Debug, Clone)]
enum Step {
    /// Frames that the engine writes, and where it cuts its writes.
    Own(Vec<usize>, usize),
    /// Chunks of shared frames.
    Shared(Vec<Vec<usize>>),
    Marker,
    /// The client takes some bytes, and the reader is woken.
    Take(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let length = || prop_oneof![4 => 0..40_usize, 2 => 120..130_usize, 1 => 65_530..65_540_usize];
    prop_oneof![
        (prop::collection::vec(length(), 1..4), 1..400_usize)
            .prop_map(|(frames, cut)| Step::Own(frames, cut)),
        prop::collection::vec(prop::collection::vec(length(), 1..4), 1..4).prop_map(Step::Shared),
        any::<()>().prop_map(|()| Step::Marker),
        (1..200_usize).prop_map(Step::Take),
        (1..100_000_usize).prop_map(Step::Take),
    ]
}

proptest! {
    #[test]
    fn bytes_out_are_the_frames_in_order(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        let mut bench =
            Bench::new(TransportSettings { backlog_bytes_max: usize::MAX, ..settings() });
        let (mut expected, mut held) = (Vec::new(), Vec::new());
        let mut live = false;
        let mut fill = b'a';
        let mut next = |length: &usize| {
            fill = if fill == b'z' { b'a' } else { fill + 1 };
            text(*length, fill)
        };
        let marker = bench.marker();
        for step in steps {
            match step {
                Step::Own(lengths, cut) => {
                    let frames: Vec<u8> = lengths.iter().flat_map(&mut next).collect();
                    for piece in frames.chunks(cut) {
                        bench.own(piece).unwrap();
                    }
                    expected.extend(frames);
                }
                Step::Shared(chunks) => {
                    let chunks: Vec<Bytes> = chunks
                        .iter()
                        .map(|lengths| lengths.iter().flat_map(&mut next).collect())
                        .collect();
                    bench.deliver(0, &chunks);
                    let waits = if live { &mut expected } else { &mut held };
                    waits.extend(chunks.iter().flatten());
                }
                Step::Marker if live => {}
                Step::Marker => {
                    bench.own(&marker).unwrap();
                    expected.append(&mut held);
                    live = true;
                }
                Step::Take(bytes) => {
                    bench.memory.take(bytes);
                    assert!(bench.read().is_pending());
                }
            }
            assert!(expected.starts_with(&bench.memory.written()));
        }
        bench.memory.take(usize::MAX);
        assert!(bench.read().is_pending());
        assert_eq!(bench.memory.written(), expected);
        bench.tasks.stop();
    }
}

fn settings() -> TransportSettings {
    TransportSettings { flush_tasks: 1, ..TransportSettings::default() }
}

#[tokio::test]
async fn a_session_that_enters_again_sees_its_connect_reply_first() {
    let mut bench = Bench::live(settings());
    bench.memory.take(usize::MAX);
    let reply = frame::encode(&Value::Str("0{\"sid\":\"x\"}".into(), None));
    let (old, late, new) = (text(5, b'a'), text(5, b'b'), text(5, b'c'));
    bench.deliver(6, std::slice::from_ref(&old));
    bench.lane.entering(7);
    bench.deliver(6, &[late]);
    bench.deliver(7, std::slice::from_ref(&new));
    bench.own(&reply).unwrap();
    assert_eq!(bench.memory.written(), [&old[..], &reply].concat());
    let marker = bench.marker();
    bench.own(&marker).unwrap();
    assert_eq!(bench.memory.written(), [&old[..], &reply, &new].concat());
}

#[tokio::test]
async fn a_marker_from_before_the_session_entered_again_is_swallowed_and_opens_nothing() {
    let mut bench = Bench::new(settings());
    bench.memory.take(usize::MAX);
    let before = bench.marker();
    bench.lane.entering(0);
    let shared = text(5, b'a');
    bench.deliver(0, std::slice::from_ref(&shared));
    bench.own(&before).unwrap();
    assert_eq!(bench.memory.written(), b"");
    let marker = bench.marker();
    bench.own(&marker).unwrap();
    assert_eq!(bench.memory.written(), shared);
}

#[tokio::test]
async fn of_two_markers_in_the_queue_the_second_opens_the_lane() {
    let mut bench = Bench::new(settings());
    bench.memory.take(usize::MAX);
    let before = bench.marker();
    bench.lane.entering(0);
    let marker = bench.marker();
    let (own, shared) = (text(5, b'a'), text(5, b'b'));
    bench.deliver(0, std::slice::from_ref(&shared));
    bench.own(&before).unwrap();
    bench.own(&own).unwrap();
    bench.own(&marker).unwrap();
    assert_eq!(bench.memory.written(), [own, shared].concat());
}

#[tokio::test]
async fn a_marker_that_left_with_its_session_is_not_waited_for() {
    let mut bench = Bench::new(settings());
    bench.memory.take(usize::MAX);
    bench.marker();
    bench.lane.entering(0);
    let shared = text(5, b'a');
    bench.deliver(0, std::slice::from_ref(&shared));
    let marker = bench.marker();
    bench.own(&marker).unwrap();
    assert_eq!(bench.memory.written(), shared);
}

#[tokio::test]
async fn a_marker_that_overtakes_the_connect_reply_is_asked_for_again() {
    let mut bench = Bench::new(settings());
    bench.memory.take(usize::MAX);
    let sid = Sid::new();
    let opened = frame::text(format!("0{{\"sid\":\"{sid}\"}}").as_bytes());
    bench.own(&opened).unwrap();
    let marker = bench.marker();
    let reply = ConnectReply::new("public", "secret", Bytes::new());
    let _admission = bench.registry.admit(sid, Some(reply));
    let shared = text(5, b'a');
    bench.deliver(0, std::slice::from_ref(&shared));
    bench.own(&marker).unwrap();
    assert_eq!(bench.memory.written(), opened, "the client has no connect reply yet");
    bench.own(&frame::encode(&Value::Str("0{\"sid\":\"x\"}".into(), None))).unwrap();
    let marker = bench.marker();
    bench.own(&marker).unwrap();
    let written = bench.memory.written();
    let tail = [&br#""pid":"secret"}"#[..], &shared].concat();
    assert!(written.ends_with(&tail), "{written:?}");
}

#[tokio::test]
async fn a_session_that_upgrades_while_it_is_ended_is_ended_all_the_same() {
    let mut bench = Bench::unsupervised(settings());
    bench.memory.take(usize::MAX);
    let (registry, lane) = (bench.registry.clone(), Arc::clone(&bench.lane));
    bench.end_polling_with(move |sid| {
        registry.opened(sid, &lane);
        Box::pin(std::future::ready(()))
    });
    bench.registry.close(Sid::new(), CloseReason::SessionTaken);
    let ended = async {
        while bench.own(&text(1, b'x')).is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), ended).await.expect("the lane is closed");
}

#[tokio::test]
async fn a_refused_marker_is_asked_for_again() {
    let bench = Bench::new(settings());
    assert!(bench.lane.marker().is_some());
    assert!(bench.lane.marker().is_none(), "one is in the queue");
    bench.lane.marker_refused();
    assert!(bench.lane.marker().is_some());
}

#[tokio::test]
async fn too_long_a_backlog_ends_the_lane_with_1013_after_the_frame_that_was_begun() {
    let mut bench = Bench::live(TransportSettings { backlog_bytes_max: 1_000, ..settings() });
    let chunk = [text(10, b'a'), text(20, b'b')].concat();
    bench.memory.take(15);
    bench.deliver(0, &[Bytes::from(chunk.clone())]);
    bench.deliver(0, &[text(1_000, b'c')]);
    assert!(matches!(bench.read(), Poll::Ready(Err(_))), "the reader sees the end");
    assert!(bench.own(&text(1, b'x')).is_err(), "the writer sees it too");
    assert_eq!(bench.registry.counters().cut_backlog.load(std::sync::atomic::Ordering::Relaxed), 1);
    bench.memory.take(usize::MAX);
    let close = CloseReason::TooSlow.frame().expect("a client can read it");
    let expected = [&chunk[..], &close[..]].concat();
    let told = async {
        while bench.memory.written() != expected {
            tokio::task::yield_now().await;
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(5), told).await;
    assert!(told.is_ok(), "{:?}", bench.memory.written());
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut_at_the_deadline_and_one_that_takes_is_not() {
    pause();
    let stall_max = Duration::from_secs(15);
    let mut slow = Bench::live(TransportSettings { stall_max, ..settings() });
    let mut dead = Bench::live(TransportSettings { stall_max, ..settings() });
    for bench in [&mut slow, &mut dead] {
        bench.deliver(0, &[text(50_000, b'a')]);
    }
    for _second in 0..40 {
        slow.memory.take(10);
        assert!(slow.read().is_pending());
        advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
    }
    assert!(slow.read().is_pending(), "a slow client moves");
    assert!(matches!(dead.read(), Poll::Ready(Err(_))), "nothing moved for longer than allowed");
}

#[tokio::test]
async fn reading_pauses_while_too_much_is_in_flight_and_only_as_long_as_pongs_allow() {
    pause();
    let read_pause_max = Duration::from_secs(10);
    let mut bench =
        Bench::live(TransportSettings { in_flight_max: 4, read_pause_max, ..settings() });
    let mut in_flight: Vec<_> = (0..4).map(|_| bench.begin().unwrap()).collect();
    bench.memory.0.lock().unwrap().brings = vec![0x81, 0x81, 0, 0, 0, 0, b'3'];
    assert!(bench.read().is_pending(), "held");
    in_flight.pop();
    assert!(bench.read().is_pending(), "more than half is unanswered");
    in_flight.pop();
    assert!(matches!(bench.read(), Poll::Ready(Ok(_))), "half of it is answered");

    in_flight.extend((0..2).map(|_| bench.begin().unwrap()));
    bench.memory.0.lock().unwrap().brings = vec![0x81, 0x81, 0, 0, 0, 0, b'3'];
    assert!(bench.read().is_pending(), "held again");
    for _second in 0..12 {
        advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
    }
    assert!(matches!(bench.read(), Poll::Ready(Ok(_))), "a pong must be read");
    assert!(bench.begin().is_err(), "but what comes is refused");
    in_flight.clear();
    assert!(bench.begin().is_ok());
}
