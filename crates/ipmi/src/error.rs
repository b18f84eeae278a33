//! Why a request to a BMC failed.

/// Why a request to a BMC failed. Messages are for operators and never hold a secret.
///
/// It is not `non_exhaustive`, so that callers can decide by each variant what follows.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    #[error("the BMC at {address} does not answer")]
    Unreachable { address: String },
    /// Also what a BMC that is only busy for a moment says after the client has asked it three
    /// times.
    #[error("the BMC at {address} is busy or has no free session slot")]
    Busy { address: String },
    #[error("the BMC at {address} refused the user name or password")]
    Credentials { address: String },
    #[error("the BMC at {address} grants too little privilege: {detail}")]
    Privilege { address: String, detail: String },
    #[error("the BMC at {address} accepts neither cipher suite 17 nor 3")]
    NoCommonCipher { address: String },
    /// Completion codes: IPMI 2.0 table 5-2, and those of each command.
    #[error("the BMC at {address} refused the command: completion code {code:#04x}")]
    Refused { address: String, code: u8 },
    #[error("the BMC at {address} answered against the protocol: {detail}")]
    Protocol { address: String, detail: String },
    /// The command left in one packet, and no reply tells what became of it. Only of what acts.
    #[error("the BMC at {address} went silent after the command was sent: it may have acted")]
    OutcomeUnknown { address: String },
    /// The [`Permit`](crate::Permit) did not hold when it was asked.
    #[error("the right to act on the host ended before anything was sent to {address}")]
    NoPermit { address: String },
    /// What was asked cannot be sent: a bad address, a user name, password or time too long for the
    /// protocol.
    #[error("{detail}")]
    Misconfigured { detail: String },
}

/// Whether a failed request may be made again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retry {
    /// Nothing happened, or nothing that matters if it happens twice: the same request may be made
    /// again.
    Safe,
    /// The BMC understood and refuses, or the request cannot be sent: repeating cannot help.
    Useless,
    /// It may have happened: look at the machine's state first.
    LookFirst,
}

impl Error {
    /// Whether the request may be made again.
    pub fn retry(&self) -> Retry {
        match self {
            Error::Unreachable { .. }
            | Error::Busy { .. }
            | Error::Protocol { .. }
            | Error::NoPermit { .. } => Retry::Safe,
            Error::Credentials { .. }
            | Error::Privilege { .. }
            | Error::NoCommonCipher { .. }
            | Error::Refused { .. }
            | Error::Misconfigured { .. } => Retry::Useless,
            Error::OutcomeUnknown { .. } => Retry::LookFirst,
        }
    }
}

/// `None` where the BMC refuses the request: it does not have what was asked for.
pub(crate) fn unless_refused<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
