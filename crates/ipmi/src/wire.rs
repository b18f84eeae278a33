//! Packets on the wire: RMCP, the RMCP+ session header, and the IPMI message inside.
//!
//! Pure. Invariant: decoding any bytes never panics, and nothing of an authenticated packet is
//! handed out before its authentication code was compared in constant time.
//!
//! ```text
//! 06 00 ff 07 | 06 type session:4 sequence:4 length:2 | payload | ff.. pad-length 07 | code
//!   RMCP      |            session header             |         |  only when authenticated
//! ```
//! IPMI 2.0 sections 13.6 (packet), 13.8 (IPMI message), 13.28 and 13.29 (integrity and
//! confidentiality). All integers are little-endian.

use aes::Aes128;
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use ipmi_rs_core::connection::Message;
use subtle::ConstantTimeEq;

use crate::rakp::{CipherSuite, SessionKeys};

const RMCP: [u8; 4] = [0x06, 0x00, 0xff, 0x07];
const AUTH_TYPE_RMCP_PLUS: u8 = 0x06;
const NEXT_HEADER: u8 = 0x07;
const BLOCK: usize = 16;
/// Address of the BMC on its own bus; below, that of a remote console.
const BMC: u8 = 0x20;
const CONSOLE: u8 = 0x81;

/// Supported payload types, of IPMI 2.0 table 13-16.
pub const IPMI: u8 = 0x00;
pub const OPEN_REQUEST: u8 = 0x10;
pub const OPEN_RESPONSE: u8 = 0x11;
pub const RAKP1: u8 = 0x12;
pub const RAKP2: u8 = 0x13;
pub const RAKP3: u8 = 0x14;
pub const RAKP4: u8 = 0x15;

/// Error for bytes that this side of the protocol does not expect; they are dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a packet of this dialogue")]
pub struct Garbled;

/// Wraps a payload of the key exchange in a packet outside any session.
pub fn plain(payload_type: u8, payload: &[u8]) -> Vec<u8> {
    header(payload_type, 0, 0, payload)
}

/// Reads payload type and payload of a packet outside any session.
pub fn open_plain(packet: &[u8]) -> Result<(u8, &[u8]), Garbled> {
    let parts = split(packet)?;
    let clear = parts.payload_type & 0xc0 == 0 && parts.session == 0;
    if clear { Ok((parts.payload_type, parts.payload)) } else { Err(Garbled) }
}

/// Encrypts and signs an IPMI message as packet `sequence` of the BMC's session `session`.
pub fn seal(
    keys: &SessionKeys,
    session: u32,
    sequence: u32,
    iv: [u8; BLOCK],
    message: &[u8],
) -> Vec<u8> {
    let payload = encrypt(&keys.confidentiality, iv, message);
    let mut packet = header(IPMI | 0xc0, session, sequence, &payload);
    // The signed part, from the authentication type to the next header, is a multiple of 4 long.
    let pad = (4 - (packet.len() - RMCP.len() + 2) % 4) % 4;
    packet.extend(std::iter::repeat_n(0xff, pad));
    packet.extend([pad as u8, NEXT_HEADER]);
    let code = keys.sign(&packet[RMCP.len()..]);
    packet.extend(code);
    packet
}

/// Verifies and decrypts a packet of our session `session`; returns its sequence number and its
/// message.
pub fn unseal(keys: &SessionKeys, session: u32, packet: &[u8]) -> Result<(u32, Vec<u8>), Garbled> {
    let parts = split(packet)?;
    if parts.payload_type != IPMI | 0xc0 || parts.session != session {
        return Err(Garbled);
    }
    let code_at = packet.len().checked_sub(keys.suite.code_len()).ok_or(Garbled)?;
    if code_at < parts.end {
        return Err(Garbled);
    }
    let (signed, code) = packet.split_at(code_at);
    let expected = keys.sign(&signed[RMCP.len()..]);
    if !bool::from(expected.ct_eq(code)) {
        return Err(Garbled);
    }
    Ok((parts.sequence, decrypt(&keys.confidentiality, parts.payload)?))
}

/// Builds a request to the BMC, IPMI 2.0 section 13.8.
pub fn request(message: &Message, rq_seq: u8) -> Vec<u8> {
    let mut bytes = vec![BMC, message.netfn_raw() << 2];
    bytes.push(checksum(&bytes));
    bytes.extend([CONSOLE, rq_seq << 2, message.cmd()]);
    bytes.extend(message.data());
    bytes.push(checksum(&bytes[3..]));
    bytes
}

/// Reply as received, not yet compared with a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IpmiReply {
    pub netfn: u8,
    pub rq_seq: u8,
    pub cmd: u8,
    pub completion: u8,
    pub data: Vec<u8>,
}

/// Reads a reply from the BMC; both checksums must be right.
pub fn reply(bytes: &[u8]) -> Result<IpmiReply, Garbled> {
    let [to, netfn, head_sum, _from, seq, cmd, completion, data @ .., tail_sum] = bytes else {
        return Err(Garbled);
    };
    let sums_hold = checksum(&[*to, *netfn]) == *head_sum
        && checksum(&bytes[3..bytes.len() - 1]) == *tail_sum
        && *to == CONSOLE;
    if !sums_hold {
        return Err(Garbled);
    }
    Ok(IpmiReply {
        netfn: netfn >> 2,
        rq_seq: seq >> 2,
        cmd: *cmd,
        completion: *completion,
        data: data.to_vec(),
    })
}

fn header(payload_type: u8, session: u32, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("requests are under 100 bytes long");
    let mut packet = Vec::with_capacity(96);
    packet.extend(RMCP);
    packet.extend([AUTH_TYPE_RMCP_PLUS, payload_type]);
    packet.extend(session.to_le_bytes());
    packet.extend(sequence.to_le_bytes());
    packet.extend(length.to_le_bytes());
    packet.extend(payload);
    packet
}

struct RawPacket<'a> {
    payload_type: u8,
    session: u32,
    sequence: u32,
    payload: &'a [u8],
    /// Offset of the first byte after the payload.
    end: usize,
}

fn split(packet: &[u8]) -> Result<RawPacket<'_>, Garbled> {
    let [
        0x06,
        _,
        _,
        0x07,
        AUTH_TYPE_RMCP_PLUS,
        payload_type,
        s0,
        s1,
        s2,
        s3,
        q0,
        q1,
        q2,
        q3,
        l0,
        l1,
        rest @ ..,
    ] = packet
    else {
        return Err(Garbled);
    };
    let length = usize::from(u16::from_le_bytes([*l0, *l1]));
    let payload = rest.get(..length).ok_or(Garbled)?;
    Ok(RawPacket {
        payload_type: *payload_type,
        session: u32::from_le_bytes([*s0, *s1, *s2, *s3]),
        sequence: u32::from_le_bytes([*q0, *q1, *q2, *q3]),
        payload,
        end: packet.len() - rest.len() + length,
    })
}

/// Two's complement checksum: the sum of the bytes and the checksum is zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

fn encrypt(key: &[u8; BLOCK], iv: [u8; BLOCK], message: &[u8]) -> Vec<u8> {
    let pad = (BLOCK - (message.len() + 1) % BLOCK) % BLOCK;
    let mut out = Vec::with_capacity(BLOCK + message.len() + pad + 1);
    out.extend(iv);
    out.extend(message);
    out.extend(1..=pad as u8);
    out.push(pad as u8);
    let mut cipher = cbc::Encryptor::<Aes128>::new(key.into(), &iv.into());
    for block in out[BLOCK..].chunks_exact_mut(BLOCK) {
        cipher.encrypt_block(block.try_into().expect("chunks_exact_mut gives whole blocks"));
    }
    out
}

fn decrypt(key: &[u8; BLOCK], payload: &[u8]) -> Result<Vec<u8>, Garbled> {
    let (iv, body) = payload.split_first_chunk::<BLOCK>().ok_or(Garbled)?;
    if body.is_empty() || !body.len().is_multiple_of(BLOCK) {
        return Err(Garbled);
    }
    let mut clear = body.to_vec();
    let mut cipher = cbc::Decryptor::<Aes128>::new(key.into(), iv.into());
    for block in clear.chunks_exact_mut(BLOCK) {
        cipher.decrypt_block(block.try_into().expect("chunks_exact_mut gives whole blocks"));
    }
    let pad = usize::from(clear.pop().ok_or(Garbled)?);
    // Only the length is checked: some BMCs fill the pad with other bytes than the specified 1, 2,
    // 3, and the packet is authenticated already.
    if pad >= BLOCK || pad > clear.len() {
        return Err(Garbled);
    }
    clear.truncate(clear.len() - pad);
    Ok(clear)
}

impl CipherSuite {
    /// Length of the truncated authentication code at the end of a packet.
    pub fn code_len(self) -> usize {
        match self {
            CipherSuite::Three => 12,
            CipherSuite::Seventeen => 16,
        }
    }
}

#[cfg(test)]
mod tests {
    use ipmi_rs_core::connection::NetFn;
    use proptest::prelude::*;

    use super::*;

    fn keys(suite: CipherSuite) -> SessionKeys {
        SessionKeys {
            suite,
            integrity: vec![0x77; 20],
            confidentiality: std::array::from_fn(|i| i as u8),
        }
    }

    fn chassis_status() -> Vec<u8> {
        request(&Message::new_request(NetFn::Chassis, 0x01, vec![]), 1)
    }

    /// Builds a packet as a BMC would send it: the same encryption over a reply.
    fn sealed_reply(suite: CipherSuite) -> Vec<u8> {
        let mut bytes = vec![CONSOLE, 0x01 << 2];
        bytes.push(checksum(&bytes));
        bytes.extend([BMC, 1 << 2, 0x01, 0x00, 0x21, 0x10, 0x40, 0x54]);
        bytes.push(checksum(&bytes[3..]));
        seal(&keys(suite), 0xa1a2_a3a4, 7, [9; 16], &bytes)
    }

    #[test]
    fn a_request_has_both_checksums() {
        assert_eq!(hex::encode(chassis_status()), "2000e08104017a");
    }

    #[test]
    fn confidentiality_matches_openssl() {
        // openssl enc -aes-128-cbc -nopad over 2000e08104017a 0102030405060708 08
        let iv: [u8; 16] = std::array::from_fn(|i| 0xf0 + i as u8);
        let sealed = encrypt(&keys(CipherSuite::Three).confidentiality, iv, &chassis_status());
        assert_eq!(hex::encode(&sealed[..16]), "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff");
        assert_eq!(hex::encode(&sealed[16..]), "accd73f165c4eadf6e1360069bf83a2f");
    }

    #[test]
    fn a_sealed_packet_has_the_specified_layout() {
        let packet = seal(&keys(CipherSuite::Three), 0x0403_0201, 5, [0; 16], &chassis_status());
        // RMCP; RMCP+, encrypted and authenticated IPMI; session; sequence; 32 bytes of payload.
        assert_eq!(hex::encode(&packet[..16]), "0600ff0706c001020304050000002000");
        // 12 + 32 + 2 needs two bytes of pad; then pad length, next header, 12 bytes of code.
        assert_eq!(hex::encode(&packet[48..52]), "ffff0207");
        assert_eq!(packet.len(), 52 + 12);
        assert_eq!((52 - 4) % 4, 0);
        assert_eq!(seal(&keys(CipherSuite::Seventeen), 1, 5, [0; 16], b"x").len(), 52 + 16);
    }

    #[test]
    fn a_reply_survives_the_way_and_a_flipped_bit_does_not() {
        for suite in [CipherSuite::Three, CipherSuite::Seventeen] {
            let packet = sealed_reply(suite);
            let (sequence, bytes) = unseal(&keys(suite), 0xa1a2_a3a4, &packet).unwrap();
            assert_eq!(sequence, 7);
            let reply = reply(&bytes).unwrap();
            assert_eq!((reply.netfn, reply.cmd, reply.rq_seq, reply.completion), (1, 1, 1, 0));
            assert_eq!(reply.data, [0x21, 0x10, 0x40, 0x54]);
            assert_eq!(unseal(&keys(suite), 0xa1a2_a3a5, &packet), Err(Garbled), "stranger");
            // The version, reserved and sequence bytes of RMCP itself are not authenticated.
            for at in 4..packet.len() {
                let mut broken = packet.clone();
                broken[at] ^= 1;
                assert_eq!(unseal(&keys(suite), 0xa1a2_a3a4, &broken), Err(Garbled), "{at}");
            }
        }
    }

    #[test]
    fn a_packet_cut_off_at_any_length_is_refused() {
        for suite in [CipherSuite::Three, CipherSuite::Seventeen] {
            let packet = sealed_reply(suite);
            for length in 0..packet.len() {
                let cut = &packet[..length];
                assert_eq!(unseal(&keys(suite), 0xa1a2_a3a4, cut), Err(Garbled), "{length}");
                assert_eq!(open_plain(cut), Err(Garbled), "{length}");
            }
        }
    }

    #[test]
    fn a_packet_without_protection_is_not_of_a_session() {
        let mut bare = header(IPMI, 0xa1a2_a3a4, 7, &chassis_status());
        assert_eq!(unseal(&keys(CipherSuite::Three), 0xa1a2_a3a4, &bare), Err(Garbled));
        bare[5] = IPMI | 0x40;
        assert_eq!(unseal(&keys(CipherSuite::Three), 0xa1a2_a3a4, &bare), Err(Garbled));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = open_plain(&bytes);
            let _ = reply(&bytes);
            let _ = decrypt(&[0; 16], &bytes);
            for suite in [CipherSuite::Three, CipherSuite::Seventeen] {
                let _ = unseal(&keys(suite), 0, &bytes);
            }
        }

        #[test]
        fn a_cut_or_garbled_packet_is_refused(
            cut in 0usize..80,
            at in 4usize..80,
            flip in 1u8..,
        ) {
            let packet = sealed_reply(CipherSuite::Three);
            let short = &packet[..cut.min(packet.len() - 1)];
            prop_assert_eq!(unseal(&keys(CipherSuite::Three), 0xa1a2_a3a4, short), Err(Garbled));
            let mut broken = packet.clone();
            let at = at.min(packet.len() - 1);
            broken[at] ^= flip;
            prop_assert_eq!(unseal(&keys(CipherSuite::Three), 0xa1a2_a3a4, &broken), Err(Garbled));
        }

        #[test]
        fn what_is_sealed_opens_again(message in proptest::collection::vec(any::<u8>(), 0..90)) {
            for suite in [CipherSuite::Three, CipherSuite::Seventeen] {
                let packet = seal(&keys(suite), 3, 4, [1; 16], &message);
                prop_assert_eq!(unseal(&keys(suite), 3, &packet), Ok((4, message.clone())));
            }
        }
    }
}
