//! The simulated site: 48 servers in two datacenters, four people, and the configuration of
//! Metalbot for them.

use std::net::{Ipv4Addr, SocketAddr};

use super::rack::{BmcFault, PASSWORD, SimBmc, USER};
use metalbot_core::domain::host::HostName;

/// Simulated server.
#[derive(Clone, Debug)]
pub struct SimServer {
    pub name: HostName,
    pub owner: &'static str,
    pub group: &'static str,
    pub datacenter: &'static str,
    pub rack: &'static str,
    pub sku: &'static str,
    pub address: Ipv4Addr,
    pub fault: Option<BmcFault>,
}

/// Person of the simulated site.
#[derive(Clone, Copy, Debug)]
pub struct SitePerson {
    pub login: &'static str,
    pub name: &'static str,
    /// Role, for people to read.
    pub role: &'static str,
    pub groups: &'static [&'static str],
}

/// People of the simulated site.
pub const PEOPLE: [SitePerson; 4] = [
    SitePerson { login: "alice", name: "Alice Ivanova", role: "SRE", groups: &["sre"] },
    SitePerson { login: "bob", name: "Bob Mensah", role: "owns web", groups: &["web-owners"] },
    SitePerson { login: "dave", name: "Dave Okafor", role: "owns db", groups: &["db-owners"] },
    SitePerson { login: "carol", name: "Carol Lindqvist", role: "SRE", groups: &["sre"] },
];

/// Creates `web[01-40]` and `db[01-08]`; web07 is silent and web09 has another password than
/// configured. `subnet` is the second number of the loopback addresses, so that several racks can
/// run at once.
pub fn servers(subnet: u8) -> Vec<SimServer> {
    let web = (1..=40u8).map(|number| {
        let (datacenter, rack) = match number {
            1..=16 => ("fra1", "r11"),
            17..=28 => ("fra1", "r12"),
            _ => ("ams1", "r21"),
        };
        SimServer {
            name: name("web", number),
            owner: "web-owners",
            group: "web",
            datacenter,
            rack,
            sku: if number <= 28 { "c6-large" } else { "c7-large" },
            address: Ipv4Addr::new(127, subnet, 1, number),
            fault: match number {
                7 => Some(BmcFault::Silent),
                9 => Some(BmcFault::WrongPassword),
                _ => None,
            },
        }
    });
    let db = (1..=8u8).map(|number| SimServer {
        name: name("db", number),
        owner: "db-owners",
        group: "db",
        datacenter: "ams1",
        rack: "r22",
        sku: "m6-xlarge",
        address: Ipv4Addr::new(127, subnet, 2, number),
        fault: None,
    });
    web.chain(db).collect()
}

fn name(kind: &str, number: u8) -> HostName {
    format!("{kind}{number:02}").parse().expect("letters and two digits are a host name")
}

/// BMCs of the servers, for the rack.
pub fn bmcs(servers: &[SimServer]) -> Vec<SimBmc> {
    servers
        .iter()
        .map(|server| SimBmc {
            host: server.name.clone(),
            address: server.address,
            fault: server.fault,
        })
        .collect()
}

/// Content of the inventory file, with the BMCs at this port.
pub fn inventory_csv(servers: &[SimServer], port: u16) -> String {
    let mut csv = String::from("name,owner,datacenter,rack,sku,bmc,credentials,groups\n");
    for server in servers {
        let SimServer { name, owner, group, datacenter, rack, sku, address, .. } = server;
        csv += &format!("{name},{owner},{datacenter},{rack},{sku},{address}:{port},rack,{group}\n");
    }
    csv
}

/// Content of the directory file. `password` is a hash for all people, if somebody must sign in.
pub fn people_toml(password: Option<&str>) -> String {
    let mut toml = String::new();
    for person in &PEOPLE {
        let SitePerson { login, name, groups, .. } = person;
        toml += &format!("[[person]]\nlogin = \"{login}\"\nname = \"{name}\"\n");
        toml += &format!("groups = {groups:?}\njira = \"{login}\"\n");
        toml += &format!("email = \"{login}@example.org\"\n");
        if let Some(hash) = password {
            toml += &format!("password = \"{hash}\"\n");
        }
        toml.push('\n');
    }
    toml
}

/// Content of the configuration file, for a folder with `people.toml` and `hosts.csv`.
pub fn metalbot_toml(listen: SocketAddr, jira: &str, jira_token: &str) -> String {
    format!(
        r#"# Made by `metalbot-demo`: the simulated site.
[http]
listen = "{listen}"

[[console.channels]]
name = "metal"
topic = "Work on servers"

[[console.channels]]
name = "random"
topic = "Everything else"

[directory]
file = "people.toml"

[inventory]
file = "hosts.csv"

[credentials.rack]
user = "{USER}"
password = "{PASSWORD}"

[ipmi]
timeout = "1500ms"

[executor]
lease_duration = "5s"
drain_timeout = "5s"

[[allow]]
group = "sre"

[[approval]]
risk = "harmless"
quorum = 0

[[approval]]
quorum = 1
from = ["owner"]
expires = "1h"

[jira]
url = "{jira}"
token = "{jira_token}"
project = "OPS"
timeout = "2s"

[tickets]
poll_interval = "1s"
create_confirm_timeout = "3s"
"#
    )
}
