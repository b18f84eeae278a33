//! Whoever sends half a request, a thousand of them, or passwords without an end keeps nobody else out.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use reqwest::{Client, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::{PATIENCE, Process, Site, until};

/// Begins a request at the process from this address of the machine, and never ends it.
async fn half_a_request(
    process: &Process,
    from: Ipv4Addr,
    text: &str,
) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let to: SocketAddr = process.base.strip_prefix("http://").unwrap().parse().unwrap();
    let mut stream = socket.connect(to).await?;
    stream.write_all(text.as_bytes()).await?;
    Ok(stream)
}

fn client_from(address: Ipv4Addr) -> Client {
    Client::builder().no_proxy().local_address(IpAddr::V4(address)).build().unwrap()
}

async fn status(client: &Client, url: String) -> Option<StatusCode> {
    client.get(url).timeout(Duration::from_secs(5)).send().await.ok().map(|got| got.status())
}

#[tokio::test]
async fn unfinished_requests_of_one_address_shut_nobody_else_out() {
    metalbot::use_ring();
    let site = Site::start().await;
    let process = site.serve().await;
    let (bad, good) = (Ipv4Addr::new(127, 0, 0, 6), client_from(Ipv4Addr::new(127, 0, 0, 7)));
    let mut open = Vec::new();
    for number in 0..1_000 {
        let text = match number % 3 {
            0 => "GET / HTTP/1.1\r\nHost: x\r\n",
            1 => "POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\ncsrf=",
            _ => "",
        };
        open.extend(half_a_request(&process, bad, text).await);
    }
    assert_eq!(status(&good, format!("{}/readyz", process.base)).await, Some(StatusCode::OK));
    process.sign_in("alice").await;
    // They end by themselves, and what they sent is answered or not, but never waited for.
    for stream in &mut open {
        let ended = tokio::time::timeout(PATIENCE, async {
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        });
        ended.await.expect("the process ends it");
    }
    let again = client_from(bad);
    let passes =
        async || status(&again, format!("{}/readyz", process.base)).await == Some(StatusCode::OK);
    until("its own requests are answered again", passes).await;
    site.finish().await;
}

#[tokio::test]
async fn at_the_limit_of_all_connections_others_wait_for_a_place() {
    metalbot::use_ring();
    let site = Site::start().await;
    let limit = [("METALBOT_HTTP__MAX_CONNECTIONS", "20")];
    let process = site.serve_with(&limit).await;
    let mut open = Vec::new();
    for number in 0..60 {
        let from = Ipv4Addr::new(127, 0, 1, number);
        open.push(half_a_request(&process, from, "GET / HTTP/1.1\r\n").await.unwrap());
    }
    let asked = Client::builder().no_proxy().build().unwrap();
    let ready =
        asked.get(format!("{}/readyz", process.base)).timeout(PATIENCE).send().await.unwrap();
    assert_eq!(ready.status(), StatusCode::OK);
    site.finish().await;
}

#[tokio::test]
async fn health_and_metrics_have_a_door_of_their_own() {
    let site = Site::start().await;
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let health = format!("http://{free}");
    let doors = [("METALBOT_HTTP__HEALTH_LISTEN", free.to_string())];
    let doors = doors.each_ref().map(|(key, value)| (*key, value.as_str()));
    let process = site.serve_with(&doors).await;
    let client = Client::builder().no_proxy().build().unwrap();
    let get = async |url: String| status(&client, url).await.unwrap();
    assert_eq!(get(format!("{health}/metrics")).await, StatusCode::OK);
    assert_eq!(get(format!("{health}/readyz")).await, StatusCode::OK);
    assert_eq!(get(format!("{health}/login")).await, StatusCode::NOT_FOUND);
    assert_eq!(get(format!("{}/readyz", process.base)).await, StatusCode::OK);
    assert_eq!(get(format!("{}/metrics", process.base)).await, StatusCode::NOT_FOUND);
    drop(process);
    // A proxy in front hands on whatever it is asked for.
    let public = [("METALBOT_HTTP__PUBLIC_URL", "https://metal.example.org")];
    let process = site.serve_with(&public).await;
    assert_eq!(get(format!("{}/metrics", process.base)).await, StatusCode::NOT_FOUND);
    drop(process);
    site.finish().await;
}
