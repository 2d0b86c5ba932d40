use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::TestbedError;
use crate::process::free_port;

/// How long a change may take to reach the connections.
const LIMIT: Duration = Duration::from_secs(10);

/// A TCP connection of one's own to a server on 127.0.0.1, that loses what a network loses.
///
/// It runs on a thread of its own, so it serves the tests of several runtimes. Dropping it closes its connections.
#[derive(Debug)]
pub struct Link {
    port: u16,
    shared: Arc<Shared>,
    // `Some` until the drop.
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    state: watch::Sender<State>,
    /// What the accepting side has made of the state: whether it listens.
    listening: watch::Sender<bool>,
    lose_reply_to: Mutex<Option<Vec<u8>>>,
    hold_reply_at: Mutex<Option<Vec<u8>>>,
    held: watch::Sender<bool>,
    replies_lost: watch::Sender<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Cut,
    Frozen,
    Ended,
}

impl Link {
    /// A link to a port of 127.0.0.1, open.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Io`] when no port can be listened on.
    pub fn to(port: u16) -> Result<Self, TestbedError> {
        let what = "cannot start a link";
        let shared = Arc::new(Shared {
            target: (Ipv4Addr::LOCALHOST, port).into(),
            state: watch::Sender::new(State::Open),
            listening: watch::Sender::new(false),
            lose_reply_to: Mutex::default(),
            hold_reply_at: Mutex::default(),
            held: watch::Sender::new(false),
            replies_lost: watch::Sender::new(0),
        });
        let own = free_port()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(TestbedError::io(what))?;
        // Bound here, so that the caller can connect at once.
        let listener =
            std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, own)).map_err(TestbedError::io(what))?;
        listener.set_nonblocking(true).map_err(TestbedError::io(what))?;
        shared.listening.send_replace(true);
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name(format!("link-{own}"))
            .spawn(move || {
                runtime.block_on(async {
                    match TcpListener::from_std(listener) {
                        Ok(listener) => run(own, listener, &of_thread).await,
                        Err(error) => tracing::warn!(port = own, %error, "a link cannot listen"),
                    }
                });
            })
            .map_err(TestbedError::io(what))?;
        Ok(Self { port: own, shared, thread: Some(thread) })
    }

    /// The port on 127.0.0.1 that leads through this link.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Closes all connections on both sides; new ones are refused from when this returns.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Timeout`] if that takes too long.
    pub async fn cut(&self) -> Result<(), TestbedError> {
        self.change(State::Cut).await
    }

    /// Nothing passes any more, and nobody is told: connections stay open, new ones get no answer.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Timeout`] if that takes too long.
    pub async fn freeze(&self) -> Result<(), TestbedError> {
        self.change(State::Frozen).await
    }

    /// Lets everything pass again. What was sent while the link was frozen arrives now.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Timeout`] if the port cannot be listened on again.
    pub async fn restore(&self) -> Result<(), TestbedError> {
        self.shared.held.send_replace(false);
        self.change(State::Open).await
    }

    /// The next request in which `text` stands reaches the server, which carries it out; its answer does not come
    /// back, and the connection breaks. Once.
    pub fn lose_reply_to(&self, text: &str) {
        *self.shared.lose_reply_to.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(text.as_bytes().to_vec());
    }

    /// How many answers have been lost by [`lose_reply_to`](Self::lose_reply_to).
    pub fn replies_lost(&self) -> u32 {
        *self.shared.replies_lost.borrow()
    }

    /// Holds a connection back when the server sends `text` on it: what it sent before arrives, and nothing else of it,
    /// until the link is [restored](Self::restore). Once.
    ///
    /// Answers are looked at as they come, 64 KiB at a time: a text that is cut in two is not found.
    pub fn hold_reply_at(&self, text: &str) {
        *self.shared.hold_reply_at.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(text.as_bytes().to_vec());
    }

    /// Waits until a connection is held back.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Timeout`] if none is, after ten seconds.
    pub async fn reply_held(&self) -> Result<(), TestbedError> {
        let mut held = self.shared.held.subscribe();
        match tokio::time::timeout(LIMIT, held.wait_for(|held| *held)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(TestbedError::Timeout {
                what: format!("a connection of the link at port {} to be held back", self.port),
                waited: LIMIT,
                last: "none is".to_owned(),
            }),
        }
    }

    async fn change(&self, state: State) -> Result<(), TestbedError> {
        self.shared.state.send_replace(state);
        let mut listening = self.shared.listening.subscribe();
        let reached = listening.wait_for(|listening| *listening == (state != State::Cut));
        match tokio::time::timeout(LIMIT, reached).await {
            Ok(_) => Ok(()),
            Err(_) => Err(TestbedError::Timeout {
                what: format!("link at port {} to become {state:?}", self.port),
                waited: LIMIT,
                last: "the port is taken".to_owned(),
            }),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.state.send_replace(State::Ended);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::warn!(port = self.port, "the thread of a link panicked");
        }
    }
}

async fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await
}

/// Accepts connections until the link ends; drops listener and connections while it is cut.
async fn run(port: u16, listener: TcpListener, shared: &Arc<Shared>) {
    let mut state = shared.state.subscribe();
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let now = *state.borrow_and_update();
        match now {
            State::Ended => return,
            State::Cut => {
                listener = None;
                connections.shutdown().await;
            }
            State::Open | State::Frozen if listener.is_none() => {
                let started = Instant::now();
                while listener.is_none() && started.elapsed() < LIMIT {
                    listener = listen(port).await.ok();
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            State::Open | State::Frozen => {}
        }
        shared.listening.send_replace(listener.is_some());
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            accepted = accept(listener.as_ref()) => {
                if let Ok((client, _)) = accepted {
                    connections.spawn(serve(client, Arc::clone(shared)));
                }
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// One connection, until either side closes it or a reply is lost.
async fn serve(client: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    pass(&shared).await;
    let server = TcpStream::connect(shared.target).await?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let lossy = watch::Sender::new(false);
    tokio::select! {
        end = requests(from_client, to_server, &shared, &lossy) => end,
        end = replies(from_server, to_client, &shared, lossy.subscribe()) => end,
    }
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    lossy: &watch::Sender<bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        pass(shared).await;
        if find_match(&shared.lose_reply_to, &buffer[..length]).is_some() {
            lossy.send_replace(true);
        }
        to.write_all(&buffer[..length]).await?;
    }
}

async fn replies(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    lossy: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if *lossy.borrow() {
            shared.replies_lost.send_modify(|lost| *lost += 1);
            return Ok(());
        }
        if length == 0 {
            return Ok(());
        }
        pass(shared).await;
        let mut rest = &buffer[..length];
        if let Some(place) = find_match(&shared.hold_reply_at, rest) {
            to.write_all(&rest[..place]).await?;
            rest = &rest[place..];
            shared.held.send_replace(true);
            let mut held = shared.held.subscribe();
            let _ = held.wait_for(|held| !held).await;
        }
        to.write_all(rest).await?;
    }
}

/// Waits while the link is frozen.
async fn pass(shared: &Shared) {
    let mut state = shared.state.subscribe();
    let _ = state.wait_for(|state| *state != State::Frozen).await;
}

/// Where the text begins; it is looked for no more then.
fn find_match(wanted: &Mutex<Option<Vec<u8>>>, bytes: &[u8]) -> Option<usize> {
    let mut wanted = wanted.lock().unwrap_or_else(PoisonError::into_inner);
    let place =
        bytes.windows(wanted.as_ref()?.len().max(1)).position(|window| Some(window) == wanted.as_deref())?;
    *wanted = None;
    Some(place)
}
