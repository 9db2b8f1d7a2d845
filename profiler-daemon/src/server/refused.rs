//! What is refused, and why.

use axum::{
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
    },
    response::{IntoResponse, Response},
};

/// What is refused, and why: a status and a sentence.
#[derive(Debug)]
pub(super) struct Refused(StatusCode, String);

impl Refused {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self(status, text.into())
    }

    pub(super) fn not_found(text: impl Into<String>) -> Self {
        Self(StatusCode::NOT_FOUND, text.into())
    }

    pub(super) fn bad(text: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, text.into())
    }

    pub(super) fn gone(text: impl Into<String>) -> Self {
        Self(StatusCode::GONE, text.into())
    }

    pub(super) fn unavailable(text: impl Into<String>) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, text.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        // As Go's handlers have it: a browser is not to save an error as a profile.
        let headers = [
            (CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
            (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            (HeaderName::from_static("x-go-pprof"), HeaderValue::from_static("1")),
        ];
        (self.0, headers, format!("{}\n", self.1)).into_response()
    }
}
