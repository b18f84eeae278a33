//! Errors of requests to a BMC.

/// Reason why a request to a BMC failed. Messages are for operators and never hold a secret.
///
/// Not `non_exhaustive`, so that callers match every variant and the compiler finds those they
/// miss.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    #[error("the BMC at {address} does not answer")]
    Unreachable { address: String },
    /// The system's resolver says that there is no such name, or none with an address.
    #[error("the name {name} cannot be resolved: there is no such name, or it has no address")]
    UnknownName { name: String },
    /// What is missing is on this side: sockets, memory, a route, a resolver. It says nothing about the
    /// BMC, and nothing was sent to it.
    #[error("{detail}")]
    Local { detail: String },
    /// The BMC stayed busy for three tries, or has no free session slot.
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
    /// The command was sent in one packet, and no reply shows its effect. Only for commands that
    /// act.
    #[error("the BMC at {address} went silent after the command was sent: it may have acted")]
    OutcomeUnknown { address: String },
    /// The [`Permit`](crate::Permit) did not hold when it was asked.
    #[error("the right to act on the host ended before anything was sent to {address}")]
    NoPermit { address: String },
    /// The request cannot be sent: an invalid address, or a user name, password or time that is too
    /// long for the protocol.
    #[error("{detail}")]
    Misconfigured { detail: String },
}

/// Advice on repeating a failed request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retry {
    /// Nothing happened, or nothing that matters if it happens twice: the same request may be
    /// repeated.
    Safe,
    /// The BMC understood and refused, or the request cannot be sent: repeating cannot help.
    Useless,
    /// The request may have taken effect: look at the machine's state first.
    LookFirst,
}

impl Error {
    /// Advice on repeating the request.
    pub fn retry(&self) -> Retry {
        match self {
            Error::Unreachable { .. }
            | Error::Local { .. }
            | Error::Busy { .. }
            | Error::Protocol { .. }
            | Error::NoPermit { .. } => Retry::Safe,
            Error::Credentials { .. }
            | Error::Privilege { .. }
            | Error::NoCommonCipher { .. }
            | Error::Refused { .. }
            | Error::UnknownName { .. }
            | Error::Misconfigured { .. } => Retry::Useless,
            Error::OutcomeUnknown { .. } => Retry::LookFirst,
        }
    }
}

/// Turns a refusal by the BMC into `None`: the BMC does not have what was asked for.
pub(crate) fn unless_refused<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
