//! How a connection is made: the socket, TLS, the role's sign-in, the session's settings.

use std::time::Duration;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::error::{PgError, ServerError};
use super::wire::{Message, Socket, Wire};
use super::{Server, quoted};
use crate::tls::is_away;

/// Bytes of the largest message before the sign-in is done.
const SIGN_IN_BYTES: usize = 64 << 10;

/// Settings that a session begins with and is reset to.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) read_only: bool,
    /// How long one statement may run.
    pub(crate) statement_timeout: Duration,
    /// How long one statement waits for others' locks.
    pub(crate) lock_timeout: Duration,
    /// Bytes of the largest answer.
    pub(crate) message_bytes: usize,
}

impl Server {
    /// A socket to the server, with TLS where it is to be.
    async fn socket(&self) -> Result<Box<dyn Socket>, PgError> {
        let away = |error: std::io::Error| PgError::Away(error.to_string());
        let mut stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(away)?;
        stream.set_nodelay(true).map_err(away)?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let mut request = BytesMut::new();
        frontend::ssl_request(&mut request);
        stream.write_all(&request).await.map_err(away)?;
        let answer = stream.read_u8().await.map_err(away)?;
        if answer != b'S' {
            return Err(PgError::Refused("the server has no TLS".to_owned()));
        }
        let connected = tls.connector.connect(tls.name.clone(), stream).await;
        Ok(Box::new(connected.map_err(|error| {
            let cause = format!("TLS: {error}");
            if is_away(&error) {
                PgError::Away(cause)
            } else {
                PgError::Refused(cause)
            }
        })?))
    }

    /// Asks the server to end what a connection is doing; answers when it was told.
    pub(super) async fn cancel(&self, key: (i32, i32)) -> Result<(), PgError> {
        let mut socket = self.socket().await?;
        let mut request = BytesMut::new();
        frontend::cancel_request(key.0, key.1, &mut request);
        let away = |error: std::io::Error| PgError::Away(error.to_string());
        socket.write_all(&request).await.map_err(away)?;
        socket.flush().await.map_err(away)?;
        // It answers nothing, and closes when it has passed the signal on.
        let _ = socket.read_u8().await;
        Ok(())
    }

    /// A connection, signed in.
    pub(super) async fn connect(&self, session: &Session) -> Result<Wire, PgError> {
        let mut wire = Wire::new(self.socket().await?, SIGN_IN_BYTES);
        let statement_timeout = milliseconds(session.statement_timeout);
        let lock_timeout = milliseconds(session.lock_timeout);
        let schema = quoted(&self.schema);
        let settings = [
            ("user", self.role.as_str()),
            ("database", &self.database),
            ("application_name", "heyday"),
            ("client_encoding", "UTF8"),
            ("search_path", &schema),
            ("DateStyle", "ISO, YMD"),
            ("IntervalStyle", "iso_8601"),
            ("TimeZone", "UTC"),
            ("bytea_output", "hex"),
            ("extra_float_digits", "1"),
            ("standard_conforming_strings", "on"),
            ("client_min_messages", "warning"),
            ("row_security", "on"),
            ("default_transaction_isolation", "read committed"),
            ("default_transaction_read_only", on_off(session.read_only)),
            ("idle_in_transaction_session_timeout", "0"),
            ("statement_timeout", &statement_timeout),
            ("lock_timeout", &lock_timeout),
        ];
        frontend::startup_message(settings, wire.output())
            .map_err(|error| PgError::protocol(error.to_string()))?;
        wire.flush().await?;
        wire.expect_ready();
        self.sign_in(&mut wire).await?;
        loop {
            match wire.message().await? {
                Message::BackendKeyData(body) => {
                    wire.key = (body.process_id(), body.secret_key());
                }
                Message::ReadyForQuery(_) => break,
                Message::ErrorResponse(body) => return Err(refused(&ServerError::new(&body))),
                _ => return Err(PgError::protocol("an unexpected message after the sign-in")),
            }
        }
        wire.set_limit(session.message_bytes);
        Ok(wire)
    }

    async fn sign_in(&self, wire: &mut Wire) -> Result<(), PgError> {
        let mut scram = None;
        let malformed = |error: std::io::Error| PgError::Refused(error.to_string());
        loop {
            match wire.message().await? {
                Message::AuthenticationOk => return Ok(()),
                Message::AuthenticationCleartextPassword => {
                    // Whoever answers at a plain socket may be anyone.
                    if self.tls.is_none() {
                        return Err(PgError::Refused(
                            "the server asks for the password itself, without TLS".to_owned(),
                        ));
                    }
                    let password = self.password().await?;
                    frontend::password_message(&password, wire.output()).map_err(malformed)?;
                }
                Message::AuthenticationSasl(body) => {
                    let mut mechanisms = body.mechanisms();
                    let mut known = false;
                    while let Some(mechanism) = mechanisms.next().map_err(malformed)? {
                        known |= mechanism == SCRAM_SHA_256;
                    }
                    if !known {
                        return Err(PgError::Refused(
                            "the server does not sign in by SCRAM-SHA-256".to_owned(),
                        ));
                    }
                    let password = self.password().await?;
                    let begun = ScramSha256::new(&password, ChannelBinding::unsupported());
                    frontend::sasl_initial_response(SCRAM_SHA_256, begun.message(), wire.output())
                        .map_err(malformed)?;
                    scram = Some(begun);
                }
                Message::AuthenticationSaslContinue(body) => {
                    let scram = scram.as_mut().ok_or_else(out_of_turn)?;
                    scram.update(body.data()).map_err(malformed)?;
                    frontend::sasl_response(scram.message(), wire.output()).map_err(malformed)?;
                }
                Message::AuthenticationSaslFinal(body) => {
                    let scram = scram.as_mut().ok_or_else(out_of_turn)?;
                    scram.finish(body.data()).map_err(malformed)?;
                }
                Message::ErrorResponse(body) => return Err(refused(&ServerError::new(&body))),
                _ => {
                    return Err(PgError::Refused(
                        "the server signs in by a way that is not known here".to_owned(),
                    ));
                }
            }
            wire.flush().await?;
        }
    }

    /// The role's password, as it is now.
    async fn password(&self) -> Result<Vec<u8>, PgError> {
        let source = self.password.as_ref().ok_or_else(|| {
            PgError::Refused("the server asks for a password, and the binding has none".to_owned())
        })?;
        let password = source.read().await.map_err(PgError::Refused)?;
        Ok(password.into_bytes())
    }
}

fn out_of_turn() -> PgError {
    PgError::protocol("a message of the sign-in out of turn")
}

/// What a server says that does not let us in.
fn refused(error: &ServerError) -> PgError {
    let words = format!("{}: {}", error.code, error.message);
    if error.is_away() || matches!(error.class(), "53" | "58") {
        PgError::Away(words)
    } else {
        PgError::Refused(words)
    }
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// As a setting: at least 1, because 0 means never there, and of 31 bits.
fn milliseconds(duration: Duration) -> String {
    let most = u128::from(i32::MAX.unsigned_abs());
    duration.as_millis().clamp(1, most).to_string()
}
