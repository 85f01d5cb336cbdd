//! One connection: messages out, messages in, and what state the server says it is in.
//!
//! Every group of messages ends with a Sync (or is a simple query), at whose end the
//! server says that it is ready; [`Wire::is_busy`] is true until it said so as often as
//! it was asked.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::message::{backend, frontend};
use postgres_protocol::{IsNull, Oid};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::Instant;

use super::error::{PgError, ServerError};

pub(super) use backend::Message;

/// The least that is read at once.
const READ_BYTES: usize = 16 << 10;

/// A socket, with or without TLS.
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

/// Of a session, as the server said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// No transaction is open.
    Idle,
    /// One is.
    Open,
    /// One is, and a statement of it failed.
    Failed,
}

/// A parameter on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Param {
    /// Its type; 0 leaves it to the server.
    pub(crate) oid: Oid,
    /// Whether in the type's binary form.
    pub(crate) binary: bool,
    /// None is NULL.
    pub(crate) bytes: Option<Bytes>,
}

impl Param {
    /// A text whose type the server infers.
    pub(crate) fn text(text: &str) -> Self {
        Self {
            oid: 0,
            binary: false,
            bytes: Some(Bytes::copy_from_slice(text.as_bytes())),
        }
    }
}

/// A column of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) oid: Oid,
}

/// What comes of an executed statement, in order.
pub(crate) enum Event {
    /// The columns; empty where the statement answers no rows.
    Fields(Vec<Field>),
    /// One row: each value in its type's text form.
    Row(Vec<Option<Bytes>>),
    /// The statement is done; its command tag, such as `INSERT 0 1`.
    Done(String),
    /// There was no statement.
    Empty,
    /// As many rows as were asked for; there may be more.
    Suspended,
    /// The server is ready for what comes next.
    Ready,
}

/// A connection.
pub(crate) struct Wire {
    socket: Box<dyn Socket>,
    input: BytesMut,
    output: BytesMut,
    /// Bytes of the largest message that is taken.
    limit: usize,
    status: Status,
    /// How often the server has still to say that it is ready.
    pending: u32,
    /// When the server must have answered.
    deadline: Option<Instant>,
    lost: bool,
    /// By which its statements are cancelled.
    pub(super) key: (i32, i32),
    pub(super) since: Instant,
}

impl Wire {
    pub(super) fn new(socket: Box<dyn Socket>, limit: usize) -> Self {
        Self {
            socket,
            input: BytesMut::new(),
            output: BytesMut::new(),
            limit,
            status: Status::Idle,
            pending: 0,
            deadline: None,
            lost: false,
            key: (0, 0),
            since: Instant::now(),
        }
    }

    pub(crate) fn status(&self) -> Status {
        self.status
    }

    /// Whether the server has something to answer still.
    pub(super) fn is_busy(&self) -> bool {
        self.pending > 0
    }

    /// Makes it of no more use.
    pub(super) fn give_up(&mut self) {
        self.lost = true;
    }

    /// Sets how large a message may be.
    pub(super) fn set_limit(&mut self, bytes: usize) {
        self.limit = bytes;
    }

    /// Whether nothing more can be asked of it.
    pub(crate) fn is_unusable(&self) -> bool {
        self.lost || self.is_busy()
    }

    /// Whether it is of no more use.
    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// By when the server must have answered from now on.
    pub(crate) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// Whether nothing came since the server was ready: no word of its end.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(Waker::noop());
        let read = Pin::new(&mut self.socket).poll_read(&mut context, &mut buffer);
        self.input.is_empty() && matches!(read, Poll::Pending)
    }

    /// Room for messages to send.
    pub(super) fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// The server is to say that it is ready, once.
    pub(super) fn expect_ready(&mut self) {
        self.pending += 1;
    }

    /// Queues a statement without parameters, whose text is ours.
    pub(crate) fn simple(&mut self, statement: &str) {
        // Our own texts have no zeros.
        if frontend::query(statement, &mut self.output).is_ok() {
            self.pending += 1;
        }
    }

    /// Queues a statement to be prepared, without a name.
    ///
    /// # Errors
    /// Where it holds a zero, or has too many parameters.
    pub(crate) fn prepare(&mut self, statement: &str, oids: &[Oid]) -> Result<(), String> {
        let length = self.output.len();
        frontend::parse("", statement, oids.iter().copied(), &mut self.output).map_err(|error| {
            self.output.truncate(length);
            error.to_string()
        })
    }

    /// Queues the prepared statement to be bound to a portal.
    ///
    /// # Errors
    /// Where there are too many parameters.
    pub(crate) fn bind(&mut self, portal: &str, params: &[Param]) -> Result<(), String> {
        let length = self.output.len();
        let bound = frontend::bind(
            portal,
            "",
            params.iter().map(|param| i16::from(param.binary)),
            params,
            |param, output| {
                Ok(match &param.bytes {
                    Some(bytes) => {
                        output.extend_from_slice(bytes);
                        IsNull::No
                    }
                    None => IsNull::Yes,
                })
            },
            [0],
            &mut self.output,
        );
        bound.map_err(|error| {
            self.output.truncate(length);
            match error {
                frontend::BindError::Conversion(error) => error.to_string(),
                frontend::BindError::Serialization(error) => error.to_string(),
            }
        })
    }

    /// Queues the question for a portal's columns.
    pub(crate) fn describe(&mut self, portal: &'static str) {
        let described = frontend::describe(b'P', portal, &mut self.output);
        debug_assert!(described.is_ok(), "our own names have no zeros");
    }

    /// Queues a portal to be executed, for at most `rows` rows; 0 for all.
    pub(crate) fn execute(&mut self, portal: &'static str, rows: i32) {
        let executed = frontend::execute(portal, rows, &mut self.output);
        debug_assert!(executed.is_ok(), "our own names have no zeros");
    }

    /// Queues the end of a group of messages.
    pub(crate) fn sync(&mut self) {
        frontend::sync(&mut self.output);
        self.pending += 1;
    }

    /// Queues the end of the session.
    pub(super) fn terminate(&mut self) {
        frontend::terminate(&mut self.output);
    }

    /// Sends what is queued.
    pub(crate) async fn flush(&mut self) -> Result<(), PgError> {
        let sending = async {
            self.socket.write_all(&self.output).await?;
            self.socket.flush().await
        };
        let sent = match self.deadline {
            Some(deadline) => tokio::time::timeout_at(deadline, sending)
                .await
                .map_err(|_| PgError::Timeout),
            None => Ok(sending.await),
        };
        match sent {
            Ok(Ok(())) => {
                self.output.clear();
                // What carried a large parameter is not kept.
                if self.output.capacity() > 4 * READ_BYTES {
                    self.output = BytesMut::new();
                }
                Ok(())
            }
            Ok(Err(error)) => Err(self.lose(&error.to_string())),
            // Half a message may be out.
            Err(error) => {
                self.lost = true;
                Err(error)
            }
        }
    }

    fn lose(&mut self, cause: &str) -> PgError {
        self.lost = true;
        PgError::Away(cause.to_owned())
    }

    /// The next message. An error of the server is a message too.
    pub(super) async fn message(&mut self) -> Result<Message, PgError> {
        loop {
            let header = match backend::Header::parse(&self.input) {
                Ok(header) => header,
                Err(error) => {
                    self.lost = true;
                    return Err(PgError::protocol(error.to_string()));
                }
            };
            let length = header.map_or(0, |header| header.len());
            if usize::try_from(length).is_ok_and(|length| length > self.limit) {
                // It cannot be skipped without reading it.
                self.lost = true;
                return Err(PgError::TooLarge);
            }
            let parsed = Message::parse(&mut self.input);
            let message = match parsed {
                Ok(Some(message)) => message,
                Ok(None) => {
                    self.receive().await?;
                    continue;
                }
                Err(error) => {
                    self.lost = true;
                    return Err(PgError::protocol(error.to_string()));
                }
            };
            match message {
                Message::NoticeResponse(_)
                | Message::NotificationResponse(_)
                | Message::ParameterStatus(_) => {}
                Message::ReadyForQuery(body) => {
                    self.status = match body.status() {
                        b'T' => Status::Open,
                        b'E' => Status::Failed,
                        _ => Status::Idle,
                    };
                    self.pending = self.pending.saturating_sub(1);
                    return Ok(Message::ReadyForQuery(body));
                }
                other => return Ok(other),
            }
        }
    }

    async fn receive(&mut self) -> Result<(), PgError> {
        self.input.reserve(READ_BYTES);
        let reading = self.socket.read_buf(&mut self.input);
        let read = match self.deadline {
            Some(deadline) => match tokio::time::timeout_at(deadline, reading).await {
                Ok(read) => read,
                Err(_) => return Err(PgError::Timeout),
            },
            None => reading.await,
        };
        match read {
            Ok(0) => Err(self.lose("the server closed the connection")),
            Ok(_) => Ok(()),
            Err(error) => Err(self.lose(&error.to_string())),
        }
    }

    /// What comes next of the statements that were sent. After an error of the server
    /// comes nothing but that it is ready.
    pub(crate) async fn event(&mut self) -> Result<Event, PgError> {
        loop {
            return Ok(match self.message().await? {
                Message::ParseComplete
                | Message::BindComplete
                | Message::CloseComplete
                | Message::ParameterDescription(_) => continue,
                Message::NoData => Event::Fields(Vec::new()),
                Message::RowDescription(body) => {
                    let fields = body.fields().map(|field| {
                        Ok(Field {
                            name: field.name().to_owned(),
                            oid: field.type_oid(),
                        })
                    });
                    Event::Fields(
                        fields
                            .collect()
                            .map_err(|error| PgError::protocol(error.to_string()))?,
                    )
                }
                Message::DataRow(body) => {
                    let buffer = body.buffer_bytes();
                    let values = body
                        .ranges()
                        .map(|range| Ok(range.map(|range| buffer.slice(range))));
                    Event::Row(
                        values
                            .collect()
                            .map_err(|error| PgError::protocol(error.to_string()))?,
                    )
                }
                Message::CommandComplete(body) => Event::Done(
                    body.tag()
                        .map_err(|error| PgError::protocol(error.to_string()))?
                        .to_owned(),
                ),
                Message::EmptyQueryResponse => Event::Empty,
                Message::PortalSuspended => Event::Suspended,
                Message::ReadyForQuery(_) => Event::Ready,
                Message::ErrorResponse(body) => {
                    let error = ServerError::new(&body);
                    if error.is_away() {
                        return Err(self.lose(&format!("{}: {}", error.code, error.message)));
                    }
                    return Err(PgError::Server(error));
                }
                Message::CopyInResponse(_) => {
                    // In that mode the server has not heard the Sync that was sent.
                    let _ = frontend::copy_fail("no copying", &mut self.output);
                    frontend::sync(&mut self.output);
                    self.flush().await?;
                    return Err(PgError::Copy);
                }
                Message::CopyOutResponse(_) => return Err(PgError::Copy),
                _ => {
                    self.lost = true;
                    return Err(PgError::protocol("an unexpected message"));
                }
            });
        }
    }

    /// Reads on until the server is ready; the error is the first that it told.
    pub(crate) async fn until_ready(&mut self) -> Result<(), PgError> {
        let mut outcome = Ok(());
        while self.is_busy() {
            match self.event().await {
                Ok(_) => {}
                Err(PgError::Server(error)) => {
                    if outcome.is_ok() {
                        outcome = Err(PgError::Server(error));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        outcome
    }

    /// Reads and throws away until the server is ready, whatever comes.
    pub(super) async fn drain(&mut self) -> Result<(), PgError> {
        while self.is_busy() {
            self.message().await?;
        }
        Ok(())
    }

    /// Sends a statement of ours and waits for its end.
    pub(crate) async fn run(&mut self, statement: &str) -> Result<(), PgError> {
        self.simple(statement);
        self.flush().await?;
        self.until_ready().await
    }

    /// Sends a statement of ours with parameters, and answers its rows.
    pub(crate) async fn rows(
        &mut self,
        statement: &str,
        params: &[Param],
    ) -> Result<Vec<Vec<Option<Bytes>>>, PgError> {
        let oids: Vec<Oid> = params.iter().map(|param| param.oid).collect();
        self.prepare(statement, &oids)
            .and_then(|()| self.bind("", params))
            .map_err(PgError::Protocol)?;
        self.execute("", 0);
        self.sync();
        self.flush().await?;
        let mut rows = Vec::new();
        loop {
            match self.event().await {
                Ok(Event::Row(row)) => rows.push(row),
                Ok(Event::Ready) => return Ok(rows),
                Ok(_) => {}
                Err(error) => {
                    if matches!(error, PgError::Server(_)) {
                        self.drain().await?;
                    }
                    return Err(error);
                }
            }
        }
    }
}
