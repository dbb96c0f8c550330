//! What is in a file, as bytes: records of this package and of the older module.

use crate::kernel::Text;
use crate::os::{NOW_MS, OWN_PID, boot_id};
use crate::record::{Record, to_iso};

/// A record as this process writes it, or the older module.
pub fn bytes_of(text: Text) -> Vec<u8> {
    let pid = |who: u8| Some(OWN_PID + i32::from(who));
    let record = match text {
        Text::Empty => return Vec::new(),
        Text::Torn => return b"{\"pid\":".to_vec(),
        Text::Foreign => return b"a will".to_vec(),
        Text::Ours { who, token, promises } => Record {
            pid: pid(who),
            created_at: Some(to_iso(NOW_MS)),
            starttime: u64::try_from(OWN_PID + i32::from(who)).ok(),
            comm: Some("node".into()),
            max_hold_ms: Some(1000),
            boot_id: boot_id(),
            pid_namespace: None,
            label: None,
            witness: promises,
            // Whose it is: two processes have no token in common.
            token: Some(format!(
                "{:032x}",
                u128::from_ne_bytes([token; 16]) ^ u128::from(who) << 8
            )),
        },
        Text::Older { who } => Record {
            pid: pid(who),
            created_at: Some(to_iso(NOW_MS)),
            starttime: u64::try_from(OWN_PID + i32::from(who)).ok(),
            ..Record::default()
        },
    };
    record.encode().into_bytes()
}

pub fn text_of(bytes: &[u8]) -> Text {
    if bytes == b" " {
        return Text::Torn; // a blank's only byte
    }
    let record = Record::decode(bytes).expect("only records are written");
    assert_eq!(record.pid, Some(OWN_PID), "a record names its writer");
    let Some(token) = &record.token else {
        return Text::Older { who: 0 };
    };
    let token = u8::from_str_radix(&token[..2], 16).expect("a token of the simulation's");
    let text = Text::Ours { who: 0, token, promises: record.witness };
    // What is written with another limit is the same for all that read it here.
    let usual = Record { max_hold_ms: Some(1000), ..record };
    assert_eq!(bytes_of(text), usual.encode().into_bytes(), "what is read is what was written");
    text
}
