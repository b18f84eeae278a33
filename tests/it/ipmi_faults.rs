//! The failures that every fleet sees, as scripted faults against our IPMI client.
//!
//! Whatever happens on the way, the BMCs' log is the judge: an act that was reported as done was
//! done once, an unknown one at most once, any other not at all.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use metalbot::bmc::ipmi::IpmiBmc;
use metalbot::bmc::{Bmc, BmcError, BootOverride, BootSelector, Power, unrestricted};
use metalbot_core::domain::error_kind::{ErrorClass, ErrorKind};
use metalbot_core::domain::host::Host;
use metalbot_core::domain::workflow::PowerTo;
use metalbot_ipmi::{Credentials, Error as IpmiError, Options};
use metalbot_sim::bmcs::{Behaviour, Bmcs, CREDENTIALS, Cipher, Deed, Noise, Soft};
use metalbot_sim::rack::{PASSWORD, USER};
use secrecy::SecretString;

const TIMEOUT: Duration = Duration::from_millis(1000);

fn start(count: usize, behaviour: Behaviour) -> Bmcs {
    Bmcs::start(0, count, behaviour, 7).expect("a UDP port is free")
}

fn client() -> IpmiBmc {
    client_with(TIMEOUT)
}

fn client_with(timeout: Duration) -> IpmiBmc {
    let min_interval = Duration::from_millis(1);
    client_of(Options { timeout, min_interval, ..Options::default() })
}

fn client_of(options: Options) -> IpmiBmc {
    let credentials = Credentials {
        user: USER.into(),
        password: SecretString::from(PASSWORD),
        privilege: Default::default(),
    };
    IpmiBmc::new(BTreeMap::from([(CREDENTIALS.to_owned(), credentials)]), options)
}

async fn cycle(client: &IpmiBmc, bmcs: &Bmcs, bmc: usize) -> Result<(), BmcError> {
    client.set_power(&bmcs.host(bmc), PowerTo::Cycle, &unrestricted()).await
}

async fn read_all(client: &IpmiBmc, bmcs: &Bmcs, count: usize) -> Vec<Result<Power, BmcError>> {
    let hosts: Vec<_> = (0..count).map(|bmc| bmcs.host(bmc)).collect();
    join_all(hosts.iter().map(|host| client.power(host))).await
}

/// Cycles every host, and holds what is reported against the log. Gives how many are done and how
/// many unknown; any other error is none of a bad network and fails the test, save `excused` ones.
async fn cycle_all(
    client: &IpmiBmc,
    bmcs: &Bmcs,
    count: usize,
    excused: &[ErrorKind],
) -> (usize, usize) {
    bmcs.clear_acts();
    let results = join_all((0..count).map(|bmc| cycle(client, bmcs, bmc))).await;
    let (mut done, mut unknown) = (0, 0);
    for (bmc, result) in results.into_iter().enumerate() {
        let cycles = bmcs.deeds(bmc).len();
        match result {
            Ok(()) => {
                assert_eq!(cycles, 1, "BMC {bmc} is reported done");
                done += 1;
            }
            Err(error) if error.class() == ErrorClass::Unknown => {
                assert!(cycles <= 1, "BMC {bmc} acted {cycles} times");
                unknown += 1;
            }
            Err(error) => {
                assert_eq!(cycles, 0, "BMC {bmc} acted, and the error says otherwise: {error}");
                assert!(excused.contains(&error.kind()), "BMC {bmc}: {error}");
            }
        }
    }
    assert!(bmcs.acts().iter().all(|act| act.deed == Deed::Cycle));
    (done, unknown)
}

fn no_session_is_open(bmcs: &Bmcs, count: usize) {
    let open: Vec<usize> = (0..count).filter(|bmc| bmcs.open_sessions(*bmc) > 0).collect();
    assert!(open.is_empty(), "sessions of {open:?} were left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn five_per_cent_of_loss() {
    // So patient that what a busy machine drops by itself is asked for again, too.
    let client = client_with(3 * TIMEOUT);
    let bmcs = start(300, Behaviour { drop: 0.05, ..Behaviour::default() });
    let read = read_all(&client, &bmcs, 300).await;
    let good = read.iter().filter(|result| **result == Ok(Power::On)).count();
    assert!(good >= 298, "{good} of 300");
    let (done, unknown) = cycle_all(&client, &bmcs, 300, &[ErrorKind::BmcUnreachable]).await;
    // One request and one reply in twenty is lost, and a control is never sent again.
    assert!(done >= 240 && done + unknown >= 295, "{done} done, {unknown} unknown");
    assert!((0..300).all(|bmc| bmcs.tally(bmc).repeated == 0), "a control was sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn five_per_cent_of_duplicates() {
    let behaviour = Behaviour { duplicate: 0.05, ..Behaviour::default() };
    let (client, bmcs) = (client(), start(300, behaviour));
    assert!(read_all(&client, &bmcs, 300).await.iter().all(|read| *read == Ok(Power::On)));
    assert_eq!(cycle_all(&client, &bmcs, 300, &[]).await, (300, 0));
    no_session_is_open(&bmcs, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_that_are_overtaken() {
    // Held back for less than the client waits before it asks again.
    let late = Duration::from_millis(20);
    let behaviour = Behaviour { hold: 0.2, duplicate: 0.2, late, ..Behaviour::default() };
    let (client, bmcs) = (client(), start(200, behaviour));
    assert!(read_all(&client, &bmcs, 200).await.iter().all(|read| *read == Ok(Power::On)));
    assert_eq!(cycle_all(&client, &bmcs, 200, &[]).await, (200, 0));
    no_session_is_open(&bmcs, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_that_come_after_the_question_was_asked_again() {
    let late = Duration::from_millis(160);
    let behaviour = Behaviour { hold: 0.2, late, ..Behaviour::default() };
    let (client, bmcs) = (client(), start(200, behaviour));
    // The state changes between the two reads, so that a reply of the first is a wrong one.
    assert!(read_all(&client, &bmcs, 200).await.iter().all(|read| *read == Ok(Power::On)));
    (0..200).for_each(|bmc| bmcs.set_power(bmc, Power::Off));
    assert!(read_all(&client, &bmcs, 200).await.iter().all(|read| *read == Ok(Power::Off)));
    (0..200).for_each(|bmc| bmcs.set_power(bmc, Power::On));
    assert_eq!(cycle_all(&client, &bmcs, 200, &[]).await, (200, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_bmc_acts_once() {
    let behaviour = Behaviour { delay: Duration::from_millis(250), ..Behaviour::default() };
    let (client, bmcs) = (client(), start(20, behaviour));
    assert_eq!(cycle_all(&client, &bmcs, 20, &[]).await, (20, 0));
}

#[tokio::test]
async fn commands_to_one_bmc_keep_their_distance() {
    let distance = Duration::from_millis(120);
    let options = Options { min_interval: distance, ..Options::default() };
    let (client, bmcs) = (client_of(options), start(1, Behaviour::default()));
    let (host, permit) = (bmcs.host(0), unrestricted());
    let boot = BootOverride { device: BootSelector::Pxe, efi: false, persistent: false };
    client.set_boot_device(&host, boot, &permit).await.unwrap();
    client.set_power(&host, PowerTo::Reset, &permit).await.unwrap();
    client.identify(&host, Duration::from_secs(1), &permit).await.unwrap();
    let acts = bmcs.acts();
    assert_eq!(acts.len(), 3);
    assert!(acts.windows(2).all(|pair| pair[1].at - pair[0].at >= distance), "{acts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_datacenter_at_its_limit_leaves_the_others_alone() {
    let options = Options {
        timeout: TIMEOUT,
        max_in_flight: 3,
        max_in_flight_per_datacenter: 1,
        ..Options::default()
    };
    let (client, bmcs) = (client_of(options), start(9, Behaviour::default()));
    let hosts = |datacenter: &str, numbers: std::ops::Range<usize>| -> Vec<Host> {
        let there = |bmc| Host { datacenter: datacenter.into(), ..bmcs.host(bmc) };
        numbers.map(there).collect()
    };
    // Eight BMCs that never answer take turns, one at a time; elsewhere nobody waits for them.
    (0..8).for_each(|bmc| bmcs.behave(bmc, Behaviour { drop: 1.0, ..Behaviour::default() }));
    let (dead, alive) = (hosts("fra1", 0..8), hosts("ams1", 8..9));
    let all_dead = join_all(dead.iter().map(|host| client.power(host)));
    let one_alive = async {
        tokio::time::sleep(TIMEOUT / 10).await;
        client.power(&alive[0]).await
    };
    tokio::pin!(all_dead);
    tokio::select! {
        _ = &mut all_dead => panic!("the dead ones were waited for"),
        power = one_alive => assert_eq!(power, Ok(Power::On)),
    }
    assert!(all_dead.await.iter().all(Result::is_err));
}

#[tokio::test]
async fn message_tag_zero() {
    for ciphers in [&[Cipher::Three], &[Cipher::Seventeen]] {
        let behaviour = Behaviour { tag_zero: true, ciphers, ..Behaviour::default() };
        let (client, bmcs) = (client(), start(1, behaviour));
        assert_eq!(client.power(&bmcs.host(0)).await, Ok(Power::On));
        assert_eq!(cycle_all(&client, &bmcs, 1, &[]).await, (1, 0));
    }
}

#[tokio::test]
async fn errors_of_two_bytes() {
    let short = Behaviour { short_errors: true, tag_zero: true, ..Behaviour::default() };
    let kind = async |behaviour: Behaviour| {
        let (client, bmcs) = (client(), start(1, behaviour));
        client.power(&bmcs.host(0)).await.unwrap_err().kind()
    };
    assert_eq!(kind(Behaviour { slots: 0, ..short.clone() }).await, ErrorKind::BmcBusy);
    assert_eq!(kind(Behaviour { user: "root", ..short.clone() }).await, ErrorKind::BmcCredentials);
    assert_eq!(
        kind(Behaviour { password: "another", ..short.clone() }).await,
        ErrorKind::BmcCredentials
    );
    assert_eq!(kind(Behaviour { privilege: 2, ..short.clone() }).await, ErrorKind::BmcPrivilege);
    assert_eq!(kind(Behaviour { ciphers: &[], ..short.clone() }).await, ErrorKind::BmcCipher);
    let old = Behaviour { ciphers: &[Cipher::Three], ..short };
    let bmcs = start(1, old);
    assert_eq!(client().power(&bmcs.host(0)).await, Ok(Power::On), "suite 17 was refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_are_given_back() {
    let (client, bmcs) = (client(), start(1, Behaviour { slots: 1, ..Behaviour::default() }));
    let host = bmcs.host(0);
    let all = join_all((0..20).map(|_| client.power(&host))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    for _ in 0..5 {
        cycle(&client, &bmcs, 0).await.unwrap();
    }
    let tally = bmcs.tally(0);
    assert_eq!((tally.opened, tally.closed), (25, 25));
    assert_eq!((tally.most_at_once, tally.turned_away), (1, 0));
}

#[tokio::test]
async fn slots_that_others_hold() {
    let (client, bmcs) = (client(), start(1, Behaviour { slots: 0, ..Behaviour::default() }));
    let error = cycle(&client, &bmcs, 0).await.unwrap_err();
    assert_eq!((error.kind(), error.class()), (ErrorKind::BmcBusy, ErrorClass::Transient));
    bmcs.behave(0, Behaviour::default());
    assert_eq!(cycle_all(&client, &bmcs, 1, &[]).await, (1, 0));
}

#[tokio::test]
async fn another_password_or_user_takes_no_slot_and_is_not_tried_again() {
    let stranger = Behaviour { slots: 1, ..Behaviour::default() };
    for behaviour in [
        Behaviour { password: "another", ..stranger.clone() },
        Behaviour { user: "root", ..stranger.clone() },
    ] {
        let (client, bmcs) = (client(), start(1, behaviour));
        for turn in 0..5 {
            let before = bmcs.heard();
            let error = cycle(&client, &bmcs, 0).await.unwrap_err();
            assert_eq!(
                (error.kind(), error.class()),
                (ErrorKind::BmcCredentials, ErrorClass::Rejected)
            );
            // Accounts are locked after some failures: one try a call is enough. On a busy machine
            // some of its packets are sent twice.
            assert!(bmcs.heard() - before <= 12, "turn {turn}");
        }
        assert_eq!(bmcs.tally(0).turned_away, 0);
        bmcs.behave(0, stranger.clone());
        assert_eq!(cycle_all(&client, &bmcs, 1, &[]).await, (1, 0));
    }
}

#[tokio::test]
async fn a_privilege_that_is_refused() {
    for late_refusal in [false, true] {
        let behaviour = Behaviour { privilege: 2, late_refusal, ..Behaviour::default() };
        let (client, bmcs) = (client(), start(1, behaviour));
        let error = cycle(&client, &bmcs, 0).await.unwrap_err();
        assert_eq!((error.kind(), error.class()), (ErrorKind::BmcPrivilege, ErrorClass::Rejected));
        assert!(bmcs.acts().is_empty());
        assert_eq!(bmcs.tally(0).controls, 0, "nothing was asked without the privilege");
        no_session_is_open(&bmcs, 1);
        if late_refusal {
            assert_eq!(client.power(&bmcs.host(0)).await, Ok(Power::On), "reading needs less");
        }
    }
}

#[tokio::test]
async fn a_busy_bmc_is_asked_again_and_acts_once() {
    let (client, bmcs) = (client(), start(1, Behaviour { busy: 2, ..Behaviour::default() }));
    assert_eq!(cycle_all(&client, &bmcs, 1, &[]).await, (1, 0));
    bmcs.behave(0, Behaviour { busy: 9, ..Behaviour::default() });
    assert_eq!(cycle_all(&client, &bmcs, 1, &[ErrorKind::BmcBusy]).await, (0, 0));
}

#[tokio::test]
async fn a_host_that_is_off_refuses_a_cycle() {
    let (client, bmcs) = (client(), start(1, Behaviour::default()));
    bmcs.set_power(0, Power::Off);
    let error = cycle(&client, &bmcs, 0).await.unwrap_err();
    assert!(matches!(error, BmcError::Ipmi(IpmiError::Refused { code: 0xd5, .. })), "{error}");
    assert!(bmcs.acts().is_empty());
}

#[tokio::test]
async fn a_soft_off_that_is_ignored() {
    let (client, bmcs) =
        (client(), start(1, Behaviour { soft: Soft::Ignored, ..Behaviour::default() }));
    let host = bmcs.host(0);
    client.set_power(&host, PowerTo::Soft, &unrestricted()).await.unwrap();
    assert_eq!(client.power(&host).await, Ok(Power::On));
    client.set_power(&host, PowerTo::Off, &unrestricted()).await.unwrap();
    assert_eq!(client.power(&host).await, Ok(Power::Off));
    assert_eq!(bmcs.deeds(0), [Deed::Soft, Deed::Off]);

    bmcs.behave(0, Behaviour { soft: Soft::Refused, ..Behaviour::default() });
    bmcs.set_power(0, Power::On);
    let error = client.set_power(&host, PowerTo::Soft, &unrestricted()).await.unwrap_err();
    assert!(matches!(error, BmcError::Ipmi(IpmiError::Refused { code: 0xcc, .. })), "{error}");
}

#[tokio::test]
async fn a_state_that_lags() {
    // What is 10 s in a rack is shortened here.
    let lag = Duration::from_millis(300);
    let (client, bmcs) = (client(), start(1, Behaviour { lag, ..Behaviour::default() }));
    let host = bmcs.host(0);
    client.set_power(&host, PowerTo::Cycle, &unrestricted()).await.unwrap();
    let start = Instant::now();
    let mut seen = vec![];
    while start.elapsed() < lag * 3 {
        let state = client.power(&host).await.unwrap();
        if seen.last() != Some(&state) {
            seen.push(state);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(seen, [Power::On, Power::Off, Power::On]);
    assert_eq!(bmcs.deeds(0), [Deed::Cycle]);
}

#[tokio::test]
async fn boot_flags_that_are_stale() {
    let (client, bmcs) = (client(), start(1, Behaviour::default()));
    let host = bmcs.host(0);
    bmcs.leave_stale_boot_device(0);
    assert_eq!(client.boot_device(&host).await, Ok(None));

    let boot = BootOverride { device: BootSelector::Pxe, efi: true, persistent: false };
    client.set_boot_device(&host, boot, &unrestricted()).await.unwrap();
    assert_eq!(client.boot_device(&host).await, Ok(Some(boot)));
    cycle(&client, &bmcs, 0).await.unwrap();
    assert_eq!(client.boot_device(&host).await, Ok(None), "used up by the boot");

    // A BMC that refuses to keep the flags lets them expire; one that keeps them does not.
    let boot_flags_expire = Duration::from_millis(100);
    for keeps_boot_flags in [false, true] {
        let behaviour = Behaviour { keeps_boot_flags, boot_flags_expire, ..Behaviour::default() };
        let bmcs = start(1, behaviour);
        let host = bmcs.host(0);
        client.set_boot_device(&host, boot, &unrestricted()).await.unwrap();
        tokio::time::sleep(boot_flags_expire * 2).await;
        let kept = client.boot_device(&host).await.unwrap().is_some();
        assert_eq!(kept, keeps_boot_flags);
    }
}

#[tokio::test]
async fn who_made_a_bmc() {
    let bmcs = start(2, Behaviour::default());
    bmcs.behave(1, Behaviour { manufacturer: 674, ..Behaviour::default() });
    for (bmc, firmware) in [(0, "Lenovo 0x0001 2.15"), (1, "Dell 0x0001 2.15")] {
        let info = client().device_info(&bmcs.host(bmc)).await.unwrap();
        assert_eq!(metalbot::bmc::identity(&info).firmware, firmware);
    }
}

#[tokio::test]
async fn the_log_and_the_sensors_of_odd_bmcs() {
    let (client, bmcs) = (client(), start(3, Behaviour::default()));
    let host = bmcs.host(0);
    let lines = async |last: usize| -> Vec<String> {
        let events = client.events(&host, last).await.unwrap();
        events.iter().map(ToString::to_string).collect()
    };
    insta::assert_snapshot!(lines(3).await.join("\n"), @r"
    2026-11-19 11:08:40 Power Supply 0x64: Power Supply input lost (AC/DC), deasserted
    2026-11-20 15:53:20 Memory 0x21: Correctable ECC / other correctable memory error (oem3=0x03), asserted
    2026-11-21 11:06:40 Temperature 0x04: Upper Critical - going high, asserted
    ");
    assert_eq!(lines(99).await.len(), 6);
    assert_eq!(lines(0).await, [""; 0]);
    let readings = client.readings(&host).await.unwrap();
    assert_eq!((readings.power_watts, readings.inlet_celsius), (Some(212.0), Some(21.0)));

    // Large steps between the numbers, numbers that begin anew, an empty log.
    let event = |n: u8| [2, n, 0, 0, 0x60, 0x20, 0, 4, 8, n, 0x6f, 3, 0xff, 0xff];
    for numbers in [vec![20, 40, 60, 80], vec![0xfffd, 0xfffe, 1, 2], vec![]] {
        let log: Vec<_> = numbers.iter().zip(0u8..).map(|(id, n)| (*id, event(n))).collect();
        bmcs.set_log(0, log);
        let said = lines(3).await;
        assert_eq!(said.len(), numbers.len().min(3), "{numbers:?}");
        assert!(said.is_empty() || said[2].contains("0x03"), "{numbers:?}: {said:?}");
    }

    // Without DCMI the power is a sensor's; records may come in small pieces only.
    for longest_read in [0xff, 16] {
        bmcs.behave(1, Behaviour { dcmi: false, longest_read, ..Behaviour::default() });
        let readings = client.readings(&bmcs.host(1)).await.unwrap();
        assert_eq!((readings.power_watts, readings.inlet_celsius), (Some(212.0), Some(22.0)));
    }
    no_session_is_open(&bmcs, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_cut_off_packets_of_every_length() {
    for ciphers in [&[Cipher::Three], &[Cipher::Seventeen]] {
        let behaviour = Behaviour { noise: Noise::Before, ciphers, ..Behaviour::default() };
        let (client, bmcs) = (client(), start(100, behaviour));
        assert!(read_all(&client, &bmcs, 100).await.iter().all(|read| *read == Ok(Power::On)));
        assert_eq!(cycle_all(&client, &bmcs, 100, &[]).await, (100, 0));
        no_session_is_open(&bmcs, 100);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_garbage_is_a_bmc_that_does_not_answer() {
    let behaviour = Behaviour { noise: Noise::Instead, ..Behaviour::default() };
    let (client, bmcs) = (client(), start(100, behaviour));
    let start = Instant::now();
    let read = read_all(&client, &bmcs, 100).await;
    assert!(read.iter().all(Result::is_err));
    let (done, unknown) = cycle_all(
        &client,
        &bmcs,
        100,
        &[ErrorKind::BmcUnreachable, ErrorKind::BmcProtocol, ErrorKind::BmcCipher],
    )
    .await;
    assert_eq!((done, unknown), (0, 0), "nobody got as far as that");
    assert!(start.elapsed() < TIMEOUT * 10, "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_turns_into_garbage_ends_in_time() {
    let timeout = Duration::from_millis(200);
    let (client, bmcs) = (client_with(timeout), start(1, Behaviour::default()));
    for turn in 0..16 {
        bmcs.clear_acts();
        let act = cycle(&client, &bmcs, 0);
        let spoil = async {
            // Somewhere in the dialogue, which takes a millisecond or two here.
            tokio::time::sleep(Duration::from_micros(150 * turn)).await;
            bmcs.behave(0, Behaviour { noise: Noise::Instead, ..Behaviour::default() });
        };
        let start = Instant::now();
        let (result, ()) = tokio::join!(act, spoil);
        // Three exchanges of two timeouts each, the raise, the act and the closing; and twice the
        // patience for a BMC that was slow before.
        assert!(start.elapsed() < timeout * 24, "{:?}", start.elapsed());
        let cycles = bmcs.deeds(0).len();
        match result {
            Ok(()) => assert_eq!(cycles, 1),
            Err(error) if error.class() == ErrorClass::Unknown => assert!(cycles <= 1),
            Err(_) => assert_eq!(cycles, 0),
        }
        bmcs.behave(0, Behaviour { session_timeout: Duration::ZERO, ..Behaviour::default() });
        // The session that could not be closed is forgotten at the next datagram.
        assert!(client.power(&bmcs.host(0)).await.is_err());
        bmcs.behave(0, Behaviour::default());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_at_once() {
    let behaviour = Behaviour {
        delay: Duration::from_millis(5),
        drop: 0.05,
        duplicate: 0.05,
        hold: 0.1,
        late: Duration::from_millis(120),
        noise: Noise::Before,
        tag_zero: true,
        short_errors: true,
        busy: 1,
        slots: 16,
        ..Behaviour::default()
    };
    // A machine that has no time for both sides needs more patience; a fault is one at any.
    let mut failed = Vec::new();
    for patience in [1, 2, 4, 8, 16] {
        let timeout = TIMEOUT * patience;
        let (client, bmcs) = (client_with(timeout), start(300, behaviour.clone()));
        match three_good_rounds(&client, &bmcs).await {
            Ok(()) => return,
            Err(why) => failed.push(format!("with a timeout of {timeout:?}: {why}")),
        }
    }
    panic!("{failed:#?}");
}

/// That nothing is done twice or reported wrongly is asserted in every round; that most is done may
/// be a matter of time.
async fn three_good_rounds(client: &IpmiBmc, bmcs: &Bmcs) -> Result<(), String> {
    for round in 0..3 {
        // Two key exchanges that a busy machine lets cross look like a wrong password.
        let excused = [ErrorKind::BmcUnreachable, ErrorKind::BmcBusy, ErrorKind::BmcCredentials];
        let (done, unknown) = cycle_all(client, bmcs, 300, &excused).await;
        if done < 240 || done + unknown < 290 {
            return Err(format!("round {round}: {done} done, {unknown} unknown of 300"));
        }
    }
    Ok(())
}
