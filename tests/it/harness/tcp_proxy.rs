//! A TCP proxy before PostgreSQL, which does to connections what networks and servers in trouble do.
//!
//! It passes everything on until it is told otherwise, and understands just enough of the protocol
//! (<https://www.postgresql.org/docs/current/protocol-message-formats.html>) to break down at one
//! statement. A client that speaks TLS is passed on as it is.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What becomes of all connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Pass,
    /// They stay open, and nothing comes through. New ones are taken, and get no answer.
    BlackHole,
}

/// How the proxy breaks down at a statement. The statement itself reaches the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Breakdown {
    /// Its answer is swallowed; everything else goes on, on this connection as well.
    SwallowsOne,
    /// From then on nothing comes through on any connection, until it is told to pass.
    SwallowsAll,
    /// All connections of then are closed.
    Resets,
}

/// A statement to break down at, by parts of the texts by which it is known.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Not before this one has come by, on whatever connection.
    pub after: Option<&'static str>,
    /// These, one after the other on one connection; the last one is meant.
    pub parts: &'static [&'static str],
}

/// What the proxy is to break down at.
#[derive(Debug)]
struct Armed {
    call: Call,
    how: Breakdown,
    /// Whether what it comes after has come by.
    may_come: bool,
    /// Tells it from the one before.
    number: u64,
}

/// How far one connection has come with the parts of a call, by the call's number.
type PartsSeen = (u64, usize);

/// The running proxy; ends with this value.
pub struct TcpProxy {
    /// The database behind it, by way of the proxy.
    pub url: String,
    shared: Arc<Shared>,
    running: JoinHandle<()>,
}

struct Shared {
    mode: watch::Sender<Mode>,
    /// Counts up; connections of before are reset.
    resets: watch::Sender<u64>,
    armed: Mutex<Option<Armed>>,
    calls: AtomicU64,
}

impl TcpProxy {
    /// Starts one before the database at this address.
    pub async fn start(database_url: &str) -> TcpProxy {
        let options: PgConnectOptions = database_url.parse().expect("a PostgreSQL URL");
        assert!(options.get_socket().is_none(), "the proxy speaks TCP: {database_url}");
        let server = (options.get_host().to_owned(), options.get_port());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let SocketAddr::V4(address) = listener.local_addr().unwrap() else { unreachable!() };
        let url = options.host("127.0.0.1").port(address.port()).to_url_lossy().to_string();
        let shared = Arc::new(Shared {
            mode: watch::Sender::new(Mode::Pass),
            resets: watch::Sender::new(0),
            armed: Mutex::default(),
            calls: AtomicU64::new(0),
        });
        let running = tokio::spawn(run(listener, server, Arc::clone(&shared)));
        TcpProxy { url, shared, running }
    }

    /// Breaks down at the next statement like this, once.
    pub fn break_down_at(&self, call: Call, how: Breakdown) {
        let number = 1 + self.shared.calls.fetch_add(1, Ordering::Relaxed);
        let may_come = call.after.is_none();
        *self.shared.armed() = Some(Armed { call, how, may_come, number });
    }

    /// Swallows the answer to the next statement that has this text; its connection stays open.
    pub fn swallow_answer_to(&self, parts: &'static [&'static str]) {
        self.break_down_at(Call { after: None, parts }, Breakdown::SwallowsOne);
    }

    /// Whether it has come to that.
    pub fn has_broken_down(&self) -> bool {
        self.shared.armed().is_none()
    }

    /// From now on nothing comes through, and nothing is closed.
    pub fn black_hole(&self) {
        self.shared.mode.send_replace(Mode::BlackHole);
    }

    /// From now on everything comes through again. Connections of before go on where they stood.
    pub fn pass(&self) {
        self.shared.mode.send_replace(Mode::Pass);
    }

    /// Closes all connections at once.
    pub fn reset(&self) {
        self.shared.resets.send_modify(|resets| *resets += 1);
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Shared {
    fn armed(&self) -> MutexGuard<'_, Option<Armed>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be done at these statements of one connection, if anything. It is done only once.
    fn breakdown_at(&self, statements: &[String], seen: &mut PartsSeen) -> Option<Breakdown> {
        let mut armed = self.armed();
        for statement in statements {
            let Armed { call, how, may_come, number } = armed.as_mut()?;
            if seen.0 != *number {
                *seen = (*number, 0);
            }
            if !*may_come {
                *may_come = call.after.is_some_and(|part| statement.contains(part));
            } else if statement.contains(call.parts[seen.1]) {
                seen.1 += 1;
            }
            if seen.1 == call.parts.len() {
                let how = *how;
                *armed = None;
                return Some(how);
            }
        }
        None
    }

    /// Waits until something may come through.
    async fn open(&self) {
        let mut mode = self.mode.subscribe();
        let _ = mode.wait_for(|mode| *mode == Mode::Pass).await;
    }
}

async fn run(listener: TcpListener, server: (String, u16), shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((client, _)) = listener.accept() => {
                connections.spawn(connect(client, server.clone(), Arc::clone(&shared)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connect(client: TcpStream, server: (String, u16), shared: Arc<Shared>) {
    let mut resets = shared.resets.subscribe();
    let passing = async {
        shared.open().await;
        let Ok(server) = TcpStream::connect(server).await else { return };
        for socket in [&client, &server] {
            socket.set_nodelay(true).unwrap();
        }
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let swallowing = watch::Sender::new(false);
        tokio::select! {
            () = pass_requests(from_client, to_server, &shared, &swallowing) => {}
            () = pass_answers(from_server, to_client, &shared, &swallowing) => {}
        }
    };
    tokio::select! {
        () = passing => {}
        _ = resets.changed() => {}
    }
}

async fn pass_requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    swallowing: &watch::Sender<bool>,
) {
    let mut chunk = vec![0; 64 * 1024];
    let mut requests = Requests::default();
    loop {
        let Ok(1..) = read(&mut from, &mut chunk, &mut requests.waiting).await else { return };
        shared.open().await;
        let how = shared.breakdown_at(&requests.next_statements(), &mut requests.parts_seen);
        match how {
            Some(Breakdown::SwallowsOne) => _ = swallowing.send_replace(true),
            Some(Breakdown::SwallowsAll) => _ = shared.mode.send_replace(Mode::BlackHole),
            Some(Breakdown::Resets) | None => {}
        }
        if to.write_all(&std::mem::take(&mut requests.read)).await.is_err() {
            return;
        }
        if how == Some(Breakdown::Resets) {
            shared.resets.send_modify(|resets| *resets += 1);
        }
    }
}

/// Reads what there is and adds it to the rest of before.
async fn read(
    from: &mut OwnedReadHalf,
    chunk: &mut [u8],
    waiting: &mut Vec<u8>,
) -> std::io::Result<usize> {
    let length = from.read(chunk).await?;
    waiting.extend_from_slice(&chunk[..length]);
    Ok(length)
}

async fn pass_answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    swallowing: &watch::Sender<bool>,
) {
    let mut chunk = vec![0; 64 * 1024];
    let mut waiting = Vec::new();
    loop {
        let Ok(1..) = read(&mut from, &mut chunk, &mut waiting).await else { return };
        shared.open().await;
        let mut passed = Vec::new();
        // The answer to the request for TLS is a single byte, and comes first.
        if waiting == b"N" {
            passed.append(&mut waiting);
        }
        while let Some(message) = take_message(&mut waiting) {
            // A lock that is held while it is looked at.
            let is_swallowed = *swallowing.borrow();
            match is_swallowed {
                false => passed.extend(&message),
                true if message[0] == READY_FOR_QUERY => {
                    swallowing.send_replace(false);
                }
                true => {}
            }
        }
        if to.write_all(&passed).await.is_err() {
            return;
        }
    }
}

const READY_FOR_QUERY: u8 = b'Z';

/// Splits the first message off: a byte that names its kind, its length, and the rest.
fn take_message(waiting: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = 1 + u32::from_be_bytes(waiting.get(1..5)?.try_into().ok()?) as usize;
    (waiting.len() >= length).then(|| waiting.drain(..length).collect())
}

/// What one client has asked.
#[derive(Default)]
struct Requests {
    /// Not looked at yet.
    waiting: Vec<u8>,
    /// Looked at, and to be passed on.
    read: Vec<u8>,
    started: bool,
    parts_seen: PartsSeen,
    /// Prepared statements by their names.
    prepared: HashMap<Vec<u8>, String>,
}

impl Requests {
    /// The statements that begin in what waits.
    fn next_statements(&mut self) -> Vec<String> {
        let mut statements = Vec::new();
        while !self.started && self.waiting.len() >= 8 {
            // The first messages have no kind: a request for TLS, then the start of the session.
            let length = u32::from_be_bytes(self.waiting[..4].try_into().unwrap()) as usize;
            if self.waiting.len() < length {
                return statements;
            }
            self.started = self.waiting[4..8] == [0, 3, 0, 0];
            self.read.extend(self.waiting.drain(..length));
        }
        while let Some(message) = take_message(&mut self.waiting) {
            let mut parts = message[5..].split(|byte| *byte == 0);
            let mut part = || parts.next().unwrap_or_default();
            let text = |part: &[u8]| String::from_utf8_lossy(part).into_owned();
            match message[0] {
                b'P' => {
                    let (name, sql) = (part().to_vec(), text(part()));
                    self.prepared.insert(name, sql);
                }
                b'B' => {
                    let (_portal, name) = (part(), part());
                    statements.extend(self.prepared.get(name).cloned());
                }
                b'Q' => statements.push(text(part())),
                _ => {}
            }
            self.read.extend(message);
        }
        statements
    }
}
