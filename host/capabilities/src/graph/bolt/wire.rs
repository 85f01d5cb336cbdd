//! One connection: messages out, answers in, each by a deadline.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout_at};

use super::frame::{self, FrameError, Frames};
use super::message::{
    BEGIN, COMMIT, FAILURE, GOODBYE, HELLO, IGNORED, LOGON, PREAMBLE, PULL, RECORD, RESET,
    ROLLBACK, RUN, SUCCESS, VERSION, map, text,
};
use super::packstream::Value;

/// The most bytes of an answer before the sign-in is done.
const SIGN_IN_BYTES: usize = 64 << 10;
/// Room for what arrives at once.
const READ_BYTES: usize = 16 << 10;
/// Rows that are asked for at once; they are read one by one, so that the server waits
/// when nobody reads.
const ROWS: i64 = 1_000;

/// Why a server that speaks another version is refused.
pub(crate) const OTHER_VERSION: &str = "it does not speak Bolt 5.4, as Neo4j does from 5.13 on";

/// What carries the bytes.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static> Socket for T {}

/// What the server said no with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Such as `Neo.ClientError.Statement.SyntaxError`.
    pub(crate) code: String,
    pub(crate) message: String,
}

impl Failure {
    /// Whether the host's sign-in is no longer good, or cannot be looked at: nothing of what a
    /// statement may do.
    pub(crate) fn is_of_sign_in(&self) -> bool {
        let kind = self.code.split_once(".Security.").map(|(_, kind)| kind);
        matches!(
            kind,
            Some(
                "AuthenticationRateLimit"
                    | "AuthorizationExpired"
                    | "AuthProviderFailed"
                    | "AuthProviderTimeout"
                    | "CredentialsExpired"
                    | "TokenExpired"
                    | "Unauthorized"
            )
        )
    }

    /// Whether the transaction was ended from outside.
    pub(super) fn is_of_an_end(&self) -> bool {
        self.code.ends_with(".Transaction.Terminated")
    }
}

/// Why an operation did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BoltError {
    /// The server said no.
    Server(Failure),
    /// It cannot be reached, or the connection was lost; the words are for the log.
    Away(String),
    /// It does not let us in, or cannot be used; the words are for the log.
    Refused(String),
    /// It ended for want of memory or stack.
    Memory,
    /// No connection became free in time.
    Full,
    /// An answer is larger than it may be.
    TooLarge,
    /// It did not answer by the deadline.
    Timeout,
    /// It speaks otherwise than Bolt 5.4.
    Protocol(&'static str),
}

/// A statement, and how it is run.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) statement: String,
    /// A map.
    pub(crate) params: Value,
    /// Outside of a transaction: how it is run. Within one nothing is said.
    pub(crate) alone: Option<Mode>,
}

/// How a transaction is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mode {
    /// Whether the server lets it only read.
    pub(crate) read_only: bool,
    /// After how long the server ends it by itself.
    pub(crate) timeout: Option<Duration>,
}

/// What comes of a statement that was run.
#[derive(Debug)]
pub(crate) enum Pulled {
    /// A row.
    Row(Vec<Value>),
    /// There are no more; what the server tells of the statement.
    End(Value),
}

/// Whether the server has something to answer, and rows that were not asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    /// So many answers are to come.
    Answers(u32),
    /// Rows are to come until the answer to PULL.
    Rows,
    /// There are more rows, once they are asked for.
    More,
    /// It failed: everything is ignored until a RESET.
    Failed,
}

/// A connection that is signed in.
pub(crate) struct Wire {
    socket: Box<dyn Socket>,
    frames: Frames,
    output: Vec<u8>,
    state: State,
    /// Whether a transaction is open.
    open: bool,
    lost: bool,
    deadline: Option<Instant>,
    database: Option<String>,
    /// What the server says it is, `Neo4j/5.26.0`.
    pub(crate) agent: String,
    /// When it was made.
    pub(super) since: Instant,
}

/// Who signs in.
#[derive(Debug, Clone)]
pub(crate) struct SignIn {
    pub(crate) user: String,
    pub(crate) password: String,
}

impl Wire {
    /// Greets the server and signs in. `database`: which one statements mean, the
    /// server's own default where none.
    pub(crate) async fn open(
        socket: Box<dyn Socket>,
        sign_in: SignIn,
        database: Option<String>,
        message_bytes: usize,
    ) -> Result<Self, BoltError> {
        let mut wire = Self {
            socket,
            frames: Frames::new(SIGN_IN_BYTES),
            output: PREAMBLE.to_vec(),
            state: State::Ready,
            open: false,
            lost: false,
            deadline: None,
            database,
            agent: String::new(),
            since: Instant::now(),
        };
        wire.flush().await?;
        while wire.frames.input.len() < VERSION.len() {
            wire.receive().await?;
        }
        let version = wire.frames.input.split_to(VERSION.len());
        if version[..] != VERSION {
            return Err(BoltError::Refused(OTHER_VERSION.to_owned()));
        }
        let agent = concat!("heyday/", env!("CARGO_PKG_VERSION"));
        let bolt_agent = map([("product", text(agent))]);
        wire.queue(
            HELLO,
            [map([
                ("user_agent", text(agent)),
                ("bolt_agent", bolt_agent),
            ])],
        );
        let greeting = wire.answer().await?;
        let server = greeting.get("server").and_then(Value::as_str);
        wire.agent = server.unwrap_or_default().to_owned();
        wire.queue(
            LOGON,
            [map([
                ("scheme", text("basic")),
                ("principal", text(sign_in.user)),
                ("credentials", text(sign_in.password)),
            ])],
        );
        wire.answer().await.map_err(|error| match error {
            BoltError::Server(failure) => {
                BoltError::Refused(format!("{}: {}", failure.code, failure.message))
            }
            error => error,
        })?;
        wire.frames.set_limit(message_bytes);
        Ok(wire)
    }

    /// By when the server must have answered from now on.
    pub(crate) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// Whether it is of no more use.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Whether it is as it was after the sign-in.
    pub(super) fn is_clean(&self) -> bool {
        self.state == State::Ready && !self.open && !self.lost
    }

    /// Whether nothing came since the server was ready: no word of its end.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut buffer = tokio::io::ReadBuf::new(&mut byte);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let read = std::pin::Pin::new(&mut self.socket).poll_read(&mut context, &mut buffer);
        self.frames.is_empty() && read.is_pending()
    }

    fn queue<const N: usize>(&mut self, tag: u8, fields: [Value; N]) {
        frame::write(&Value::Struct(tag, fields.into()), &mut self.output);
        self.state = match self.state {
            State::Answers(count) => State::Answers(count + 1),
            _ => State::Answers(1),
        };
    }

    fn lose(&mut self, cause: impl Into<String>) -> BoltError {
        self.lost = true;
        BoltError::Away(cause.into())
    }

    async fn flush(&mut self) -> Result<(), BoltError> {
        let sending = async {
            self.socket.write_all(&self.output).await?;
            self.socket.flush().await
        };
        // Whoever stops here leaves half a message.
        self.lost = true;
        let sent = within(self.deadline, sending).await;
        match sent {
            Some(Ok(())) => {
                self.lost = false;
                self.output.clear();
                // What carried large parameters is not kept.
                self.output.shrink_to(READ_BYTES);
                Ok(())
            }
            Some(Err(error)) => Err(self.lose(error.to_string())),
            None => Err(BoltError::Timeout),
        }
    }

    async fn receive(&mut self) -> Result<(), BoltError> {
        self.frames.input.reserve(READ_BYTES);
        let reading = self.socket.read_buf(&mut self.frames.input);
        match within(self.deadline, reading).await {
            None => Err(BoltError::Timeout),
            Some(Ok(0)) => Err(self.lose("the server closed the connection")),
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(self.lose(error.to_string())),
        }
    }

    async fn message(&mut self) -> Result<(u8, Vec<Value>), BoltError> {
        loop {
            match self.frames.next() {
                Ok(Some(Value::Struct(tag, fields))) => return Ok((tag, fields)),
                Ok(Some(_)) => {
                    self.lost = true;
                    return Err(BoltError::Protocol("a message is no structure"));
                }
                Ok(None) => self.receive().await?,
                Err(error) => {
                    // It cannot be skipped without reading it.
                    self.lost = true;
                    return Err(match error {
                        FrameError::TooLarge => BoltError::TooLarge,
                        FrameError::Malformed(malformed) => BoltError::Protocol(malformed.0),
                    });
                }
            }
        }
    }

    /// What the server said no with.
    fn failed(&mut self, details: &Value) -> BoltError {
        let detail = |key| details.get(key).and_then(Value::as_str).unwrap_or_default();
        let failure = Failure {
            code: detail("code").to_owned(),
            message: detail("message").to_owned(),
        };
        self.state = State::Failed;
        self.open = false;
        // The next one signs in anew.
        self.lost |= failure.is_of_sign_in();
        BoltError::Server(failure)
    }

    /// Whether the deadline has passed.
    pub(super) fn is_late(&self) -> bool {
        self.deadline.is_some_and(|at| at <= Instant::now())
    }

    /// The next answer that is no row.
    async fn summary(&mut self) -> Result<Value, BoltError> {
        let (tag, fields) = self.message().await?;
        self.state = match self.state {
            State::Answers(count) if count > 1 => State::Answers(count - 1),
            _ => State::Ready,
        };
        match tag {
            SUCCESS => Ok(fields.into_iter().next().unwrap_or(Value::Null)),
            FAILURE => {
                // What was sent after it is ignored.
                while let State::Answers(count) = self.state {
                    self.message().await?;
                    self.state = match count {
                        0 | 1 => State::Ready,
                        count => State::Answers(count - 1),
                    };
                }
                let details = fields.into_iter().next().unwrap_or(Value::Null);
                Err(self.failed(&details))
            }
            IGNORED => {
                self.state = State::Failed;
                Err(BoltError::Protocol("a message was ignored"))
            }
            _ => {
                self.lost = true;
                Err(BoltError::Protocol("an unexpected message"))
            }
        }
    }

    /// Sends what is queued, and reads its one answer.
    async fn answer(&mut self) -> Result<Value, BoltError> {
        self.flush().await?;
        self.summary().await
    }

    fn transaction(&self, mode: Mode) -> Value {
        let mut members = vec![(
            "mode".to_owned(),
            text(if mode.read_only { "r" } else { "w" }),
        )];
        if let Some(timeout) = mode.timeout {
            let milliseconds = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
            members.push(("tx_timeout".to_owned(), Value::Integer(milliseconds)));
        }
        if let Some(database) = &self.database {
            members.push(("db".to_owned(), text(database.clone())));
        }
        Value::Map(members)
    }

    /// Begins a transaction.
    pub(crate) async fn begin(&mut self, mode: Mode) -> Result<(), BoltError> {
        self.queue(BEGIN, [self.transaction(mode)]);
        self.open = true;
        self.answer().await.map(drop)
    }

    /// Ends the transaction.
    pub(crate) async fn end(&mut self, commit: bool) -> Result<(), BoltError> {
        self.queue(if commit { COMMIT } else { ROLLBACK }, []);
        let answered = self.answer().await;
        if answered.is_ok() {
            self.open = false;
        }
        answered.map(drop)
    }

    /// Runs a statement and asks for its first rows; answers its columns.
    pub(crate) async fn run(&mut self, run: Run) -> Result<Vec<String>, BoltError> {
        let extra = run
            .alone
            .map_or_else(|| map([]), |mode| self.transaction(mode));
        self.queue(RUN, [text(run.statement), run.params, extra]);
        self.queue(PULL, [map([("n", Value::Integer(ROWS))])]);
        let answer = self.answer().await?;
        self.state = State::Rows;
        let Some(Value::List(fields)) = answer.get("fields") else {
            self.lost = true;
            return Err(BoltError::Protocol("a statement has no columns"));
        };
        let names = fields.iter().map(|name| name.as_str().map(str::to_owned));
        names
            .collect::<Option<_>>()
            .ok_or(BoltError::Protocol("a column's name is no text"))
    }

    /// The next row of the statement that was run.
    pub(crate) async fn pull(&mut self) -> Result<Pulled, BoltError> {
        if self.state == State::More {
            self.queue(PULL, [map([("n", Value::Integer(ROWS))])]);
            self.flush().await?;
            self.state = State::Rows;
        }
        loop {
            let (tag, fields) = self.message().await?;
            match (tag, fields.into_iter().next()) {
                (RECORD, Some(Value::List(row))) => return Ok(Pulled::Row(row)),
                (SUCCESS, Some(told)) => {
                    if told.get("has_more") != Some(&Value::Boolean(true)) {
                        self.state = State::Ready;
                        return Ok(Pulled::End(told));
                    }
                    self.queue(PULL, [map([("n", Value::Integer(ROWS))])]);
                    self.flush().await?;
                    self.state = State::Rows;
                }
                (FAILURE, Some(details)) => return Err(self.failed(&details)),
                _ => {
                    self.lost = true;
                    return Err(BoltError::Protocol("an unexpected message"));
                }
            }
        }
    }

    /// Runs a statement of our own that only reads; the first column of its rows.
    pub(crate) async fn column(
        &mut self,
        statement: &str,
        timeout: Duration,
    ) -> Result<Vec<Value>, BoltError> {
        let run = Run {
            statement: statement.to_owned(),
            params: map([]),
            alone: Some(Mode {
                read_only: true,
                timeout: Some(timeout),
            }),
        };
        self.run(run).await?;
        let mut column = Vec::new();
        while let Pulled::Row(row) = self.pull().await? {
            column.extend(row.into_iter().next());
        }
        Ok(column)
    }

    /// Ends whatever the server does for this connection, and rolls back its transaction.
    pub(crate) async fn reset(&mut self) -> Result<(), BoltError> {
        frame::write(&Value::Struct(RESET, Vec::new()), &mut self.output);
        self.flush().await?;
        // What it was doing is answered before, in any number of messages.
        let mut before = match self.state {
            State::Ready | State::More | State::Failed => 0,
            State::Rows => 1,
            State::Answers(count) => count,
        };
        loop {
            let (tag, _) = self.message().await?;
            match tag {
                RECORD => {}
                _ if before > 0 => before -= 1,
                SUCCESS => break,
                _ => {
                    self.lost = true;
                    return Err(BoltError::Protocol("a connection was not reset"));
                }
            }
        }
        self.state = State::Ready;
        self.open = false;
        Ok(())
    }

    /// Says that it will not be used again.
    pub(crate) async fn goodbye(mut self) {
        frame::write(&Value::Struct(GOODBYE, Vec::new()), &mut self.output);
        // It is closed either way.
        let _ = self.flush().await;
    }
}

/// By the deadline, where there is one.
async fn within<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    match deadline {
        Some(deadline) => timeout_at(deadline, future).await.ok(),
        None => Some(future.await),
    }
}
