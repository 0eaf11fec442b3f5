//! The control stream: requests by name, and their answers.

use bytes::Bytes;

use super::{Ending, unexpected};
use crate::model::api::ApiResponse;
use crate::model::error::ApiError;
use crate::model::event::Event;
use crate::model::request::{Request, Token};
use crate::session::api::{self, Strictness};
use crate::wire::native::{ClientFrame, DirectMessage, Output, ServerFrame};

/// Longest part of an answer, in bytes. 256 KiB: below the smallest frame limit a server can
/// have, and short enough not to hold up other answers.
const RESPONSE_PART: usize = 256 << 10;

/// A frame after WELCOME. No state is kept: the broker keeps requests apart by their number.
pub(super) fn receive(
    frame: ClientFrame,
    requests: &mut Vec<Request>,
    out: &mut Output,
) -> Result<(), Ending> {
    let ClientFrame::Request { id, operation, body } = frame else {
        return Err(unexpected(&frame, "only REQUEST follows on the control stream"));
    };
    match api::parse(&operation, &body, Strictness::Strict) {
        Ok(request) => requests.push(Request::Api { token: Token(id), request }),
        Err(error) => refuse(id, &error, out),
    }
    Ok(())
}

pub(super) fn event(event: Event, out: &mut Output) {
    let Event::Answer { token: Token(id), result } = event else { return };
    match result {
        Ok(ApiResponse::Direct { stream, record, no_headers }) => {
            let message = DirectMessage { id, stream, record };
            ServerFrame::encode_direct(&message, no_headers, out);
        }
        Ok(response) => match serde_json::to_vec(&response) {
            Ok(body) => respond(id, true, body.into(), out),
            Err(error) => refuse(id, &ApiError::bad_request_because(error), out),
        },
        Err(error) => refuse(id, &error, out),
    }
}

fn refuse(id: u64, error: &ApiError, out: &mut Output) {
    // Numbers and a text, whose serialization cannot fail.
    let body = serde_json::to_vec(error).unwrap_or_default();
    respond(id, false, body.into(), out);
}

fn respond(id: u64, ok: bool, mut body: Bytes, out: &mut Output) {
    loop {
        let part = body.split_to(body.len().min(RESPONSE_PART));
        let more = !body.is_empty();
        ServerFrame::Response { id, ok, more, body: part }.encode(out);
        if !more {
            return;
        }
    }
}
