//! A stable word for each kind of error, for programs; `docs/errors.md` lists them.

/// Declares [`Code`], its words and the list of all.
macro_rules! codes {
    ($($(#[$doc:meta])* $code:ident = $word:literal,)*) => {
        /// The kind of an error. The words never change their meaning; new ones may come.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[$doc])* $code,)*
        }

        impl Code {
            /// Every code there is.
            pub const ALL: &[Code] = &[$(Code::$code),*];

            /// The word that stands for it in JSON.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Code::$code => $word,)*
                }
            }
        }
    };
}

codes! {
    /// A value of a request or of the configuration is outside what is allowed.
    InvalidValue = "invalid_value",
    /// The command line cannot be read.
    InvalidUsage = "invalid_usage",
    /// A file or folder cannot be used.
    UnusableFile = "unusable_file",
    /// A checkpoint or an adapter lacks a tensor.
    MissingTensor = "missing_tensor",
    /// A tensor has another shape, type or value than it must have.
    WrongTensor = "wrong_tensor",
    /// There is no adapter.
    NoAdapter = "no_adapter",
    /// The adapter or its driver refused something, or was lost.
    AdapterFailed = "adapter_failed",
    /// The adapter has no memory left.
    OutOfMemory = "out_of_memory",
    /// A stage made numbers that are not finite.
    NotFinite = "not_finite",
    /// The run was stopped by its owner.
    Cancelled = "cancelled",
    /// The body of a request cannot be read.
    UnreadableBody = "unreadable_body",
    /// The body of a request is compressed in a way that is not known.
    UnsupportedEncoding = "unsupported_encoding",
    /// The request carries no valid key.
    Unauthorized = "unauthorized",
    /// A page of another site that may not call the service.
    OriginNotAllowed = "origin_not_allowed",
    /// There is no such path, job, model or result.
    NotFound = "not_found",
    /// The path does not take this method.
    MethodNotAllowed = "method_not_allowed",
    /// The key has too few credits.
    NotEnoughCredits = "not_enough_credits",
    /// The body is larger than the service takes.
    BodyTooLarge = "body_too_large",
    /// The request did not arrive in time.
    RequestTooSlow = "request_too_slow",
    /// Too many requests wait.
    QueueFull = "queue_full",
    /// The model is being loaded, or the service stops.
    Unavailable = "unavailable",
    /// The picture took too long, and was stopped.
    TimedOut = "timed_out",
    /// Anything else; the log or the message says what.
    Internal = "internal",
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl serde::Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
