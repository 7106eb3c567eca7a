//! A bad network between two processes: a TCP proxy on loopback that can be told to fail.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::{PATIENCE, free_port};

/// What the network does to connections, old and new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    Good,
    /// Everything arrives this much later, in both directions.
    Slow(Duration),
    /// No more than this arrives in a second, in each direction.
    Narrow {
        bytes_per_second: u32,
    },
    /// Connections stay open and new ones are accepted, but nothing passes or is read: a peer that
    /// vanished without a word, or reads no more.
    HalfOpen,
    /// New connections are refused. Old ones go on until `cut`.
    Refusing,
    /// Subscriptions at Redis are ended without a word to the subscriber: commands and pings are
    /// answered, and no message arrives.
    Deaf,
}

const RETRY_EVERY: Duration = Duration::from_millis(1);
/// What the kernel holds of a server that the proxy does not read: little, so that it is felt.
const RECEIVE_BUFFER: u32 = 32 << 10;
const UNSUBSCRIBE: &[u8] = b"*1\r\n$11\r\nUNSUBSCRIBE\r\n";

/// Pieces on their way; what a slow network holds before the sender feels it.
const PIECES_MAX: usize = 1_024;

#[derive(Debug)]
pub struct Proxy {
    pub address: SocketAddr,
    network: watch::Sender<Network>,
    target: watch::Sender<SocketAddr>,
    /// Counts the cuts; a connection ends when it changes.
    cuts: Arc<watch::Sender<u64>>,
    /// Owns the accepting task, and that one the connections.
    _accepting: JoinSet<()>,
}

impl Proxy {
    pub async fn start(target: SocketAddr) -> Self {
        // Between the look and the bind another program may take the port.
        let listener = super::eventually("a port is free", PATIENCE, async || {
            TcpListener::bind(("127.0.0.1", free_port())).await.ok()
        })
        .await;
        let address = listener.local_addr().expect("a listener has an address");
        let (network, state) = watch::channel(Network::Good);
        let cuts = Arc::new(watch::Sender::new(0));
        let target = watch::Sender::new(target);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, target.subscribe(), state, Arc::clone(&cuts)));
        Self { address, network, target, cuts, _accepting: accepting }
    }

    /// Where new connections go from now on.
    pub fn redirect(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }

    /// Changes what happens to connections, old and new.
    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }

    pub fn heal(&self) {
        self.set(Network::Good);
    }

    /// Resets every connection there is.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn accept(
    mut listener: TcpListener,
    target: watch::Receiver<SocketAddr>,
    mut network: watch::Receiver<Network>,
    cuts: Arc<watch::Sender<u64>>,
) {
    let address = listener.local_addr().expect("a listener has an address");
    let mut connections = JoinSet::new();
    loop {
        if *network.borrow_and_update() == Network::Refusing {
            drop(listener);
            if network.wait_for(|network| *network != Network::Refusing).await.is_err() {
                return;
            }
            // A process that another test just starts may have the old listener for a moment.
            listener = loop {
                match TcpListener::bind(address).await {
                    Ok(listener) => break listener,
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                        sleep(RETRY_EVERY).await
                    }
                    Err(error) => panic!("the port is still ours: {error}"),
                }
            };
        }
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _from)) = accepted else { continue };
                let cut = cuts.subscribe();
                let target = target.clone();
                connections.spawn(connection(client, target, network.clone(), cut));
            }
            changed = network.changed() => if changed.is_err() { return },
            Some(_ended) = connections.join_next() => {}
        }
    }
}

/// Two directions, until one has an error or the connection is cut. Then both ends are reset.
async fn connection(
    client: TcpStream,
    target: watch::Receiver<SocketAddr>,
    network: watch::Receiver<Network>,
    mut cut: watch::Receiver<u64>,
) {
    client.set_zero_linger().expect("an open socket takes options");
    // A vanished peer accepts nothing either: the kernel has, nobody else does.
    let mut state = network.clone();
    let passes = state.wait_for(|network| *network != Network::HalfOpen);
    let passes = async { passes.await.is_ok() };
    tokio::select! {
        _cut = cut.changed() => return,
        passes = passes => if !passes { return },
    }
    let target = *target.borrow();
    let socket = TcpSocket::new_v4().expect("a socket can be made");
    socket.set_recv_buffer_size(RECEIVE_BUFFER).expect("an open socket takes options");
    let Ok(server) = socket.connect(target).await else { return };
    server.set_zero_linger().expect("an open socket takes options");
    for stream in [&client, &server] {
        stream.set_nodelay(true).expect("an open socket takes options");
    }
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    tokio::select! {
        _cut = cut.changed() => {}
        _ended = carry(client_reads, server_writes, network.clone(), Way::There) => {}
        _ended = carry(server_reads, client_writes, network, Way::Back) => {}
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    There,
    Back,
}

/// One direction. Pieces wait in a queue for their time, so that a delay costs no throughput.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut network: watch::Receiver<Network>,
    way: Way,
) -> io::Result<()> {
    let (queue, mut queued) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    let mut state = network.clone();
    let read = async move {
        let mut buffer = vec![0; 64 << 10];
        loop {
            if state.wait_for(|network| *network != Network::HalfOpen).await.is_err() {
                return Ok(());
            }
            let size = from.read(&mut buffer).await?;
            let delay = match *state.borrow() {
                Network::Slow(delay) => delay,
                Network::Narrow { .. }
                | Network::Good
                | Network::HalfOpen
                | Network::Refusing
                | Network::Deaf => Duration::ZERO,
            };
            let piece = (Instant::now() + delay, buffer[..size].to_vec());
            if size == 0 || queue.send(piece).await.is_err() {
                return io::Result::Ok(());
            }
        }
    };
    let write = async move {
        let mut subscribed = false;
        loop {
            if subscribed && *network.borrow_and_update() == Network::Deaf {
                to.write_all(UNSUBSCRIBE).await?;
                subscribed = false;
            }
            let (due, piece) = tokio::select! {
                piece = queued.recv() => match piece {
                    Some(piece) => piece,
                    None => return io::Result::Ok(()),
                },
                changed = network.changed(), if subscribed => match changed {
                    Ok(()) => continue,
                    Err(_the_proxy_ends) => return io::Result::Ok(()),
                },
            };
            sleep_until(due).await;
            if network.wait_for(|network| *network != Network::HalfOpen).await.is_err() {
                return io::Result::Ok(());
            }
            let state = *network.borrow();
            if let Network::Narrow { bytes_per_second } = state {
                let size = u32::try_from(piece.len()).expect("a piece is small");
                sleep(Duration::from_secs(1) * size / bytes_per_second).await;
            }
            to.write_all(&piece).await?;
            // A command as short as this one comes in one piece.
            let word = b"SUBSCRIBE";
            subscribed |= way == Way::There
                && piece.len() < 1_024
                && piece.windows(word.len()).any(|it| it == word);
        }
    };
    tokio::try_join!(read, write).map(|_both| ())
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::harness::PATIENCE;

    const SOON: Duration = Duration::from_millis(100);

    /// A server that says everything back.
    async fn echo() -> (SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a port");
        let address = listener.local_addr().expect("a listener has an address");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _from)) = listener.accept().await {
                let (mut reads, mut writes) = stream.into_split();
                connections.spawn(async move { tokio::io::copy(&mut reads, &mut writes).await });
            }
        });
        (address, tasks)
    }

    async fn ask(stream: &mut TcpStream) -> io::Result<()> {
        stream.write_all(b"a").await?;
        let mut answer = [0];
        stream.read_exact(&mut answer).await.map(|_size| ())
    }

    #[tokio::test]
    async fn a_good_network_carries_and_a_cut_ends_it() {
        let (server, _tasks) = echo().await;
        let proxy = Proxy::start(server).await;
        let mut stream = TcpStream::connect(proxy.address).await.expect("it accepts");
        ask(&mut stream).await.expect("an echo");
        proxy.cut();
        let ended = timeout(PATIENCE, ask(&mut stream)).await.expect("an end in time");
        assert!(ended.is_err(), "a cut connection carries");
        let mut stream = TcpStream::connect(proxy.address).await.expect("it accepts");
        ask(&mut stream).await.expect("a cut is for what was there");
    }

    #[tokio::test]
    async fn a_half_open_network_carries_nothing_until_it_heals() {
        let (server, _tasks) = echo().await;
        let proxy = Proxy::start(server).await;
        let mut old = TcpStream::connect(proxy.address).await.expect("it accepts");
        ask(&mut old).await.expect("an echo");
        proxy.set(Network::HalfOpen);
        let mut new = TcpStream::connect(proxy.address).await.expect("it still accepts");
        let (mut asks_old, mut asks_new) =
            (std::pin::pin!(ask(&mut old)), std::pin::pin!(ask(&mut new)));
        assert!(timeout(SOON, &mut asks_old).await.is_err(), "an old connection carries");
        assert!(timeout(SOON, &mut asks_new).await.is_err(), "a new connection carries");
        proxy.heal();
        asks_old.await.expect("what waited arrives");
        asks_new.await.expect("what waited arrives");
    }

    #[tokio::test]
    async fn a_slow_network_carries_later() {
        let (server, _tasks) = echo().await;
        let proxy = Proxy::start(server).await;
        proxy.set(Network::Slow(SOON));
        let mut stream = TcpStream::connect(proxy.address).await.expect("it accepts");
        let asked = Instant::now();
        ask(&mut stream).await.expect("an echo");
        assert!(asked.elapsed() >= 2 * SOON, "both ways are slow: {:?}", asked.elapsed());
    }

    #[tokio::test]
    async fn a_refusing_network_refuses_until_it_heals() {
        let (server, _tasks) = echo().await;
        let proxy = Proxy::start(server).await;
        proxy.set(Network::Refusing);
        crate::harness::eventually("it refuses", PATIENCE, async || {
            TcpStream::connect(proxy.address).await.err()
        })
        .await;
        proxy.heal();
        crate::harness::eventually("it accepts", PATIENCE, async || {
            TcpStream::connect(proxy.address).await.ok()
        })
        .await;
    }
}
