//! Vendor and firmware of each BMC, by its last answer.

use std::collections::HashSet;
use std::time::Duration;

use sqlx::{PgConnection, PgPool};

use super::task_lease::interval;
use metalbot_core::domain::host::{BmcIdentity, HostName, UsualBmc};

/// Wait before a BMC that has never answered is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(3600);

/// Returns the hosts whose BMCs have not been asked within this time, in the order given.
pub async fn due(
    pool: &PgPool,
    hosts: &[HostName],
    within: Duration,
) -> sqlx::Result<Vec<HostName>> {
    let names: Vec<String> = hosts.iter().map(|host| host.as_str().to_owned()).collect();
    let asked: HashSet<String> = sqlx::query_scalar!(
        "select host from bmc_identity where host = any($1)
             and asked_at > now() - case when vendor = '' then $3::interval else $2::interval end",
        &names,
        interval(within) as _,
        interval(within.min(ASK_AGAIN)) as _
    )
    .fetch_all(pool)
    .await?
    .into_iter()
    .collect();
    Ok(hosts.iter().filter(|host| !asked.contains(host.as_str())).cloned().collect())
}

/// Stores answers of BMCs. `None`: a BMC did not answer, and its last answer stays.
pub async fn keep(pool: &PgPool, answers: &[(HostName, Option<BmcIdentity>)]) -> sqlx::Result<()> {
    let hosts: Vec<String> = answers.iter().map(|(host, _)| host.as_str().to_owned()).collect();
    let part = |part: fn(&BmcIdentity) -> &String| -> Vec<Option<String>> {
        answers.iter().map(|(_, said)| said.as_ref().map(part).cloned()).collect()
    };
    let (vendors, firmwares) = (part(|one| &one.vendor), part(|one| &one.firmware));
    sqlx::query!(
        "insert into bmc_identity (host, vendor, firmware)
         select host, coalesce(vendor, ''), coalesce(firmware, '')
         from unnest($1::text[], $2::text[], $3::text[]) as said (host, vendor, firmware)
         on conflict (host) do update set
             vendor = coalesce(nullif(excluded.vendor, ''), bmc_identity.vendor),
             firmware = coalesce(nullif(excluded.firmware, ''), bmc_identity.firmware),
             asked_at = now()",
        &hosts,
        &vendors as _,
        &firmwares as _
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Vendors and firmwares of more than half of the fleet's BMCs: that hosts have them in common says
/// nothing.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Usual {
    vendors: Vec<String>,
    firmwares: Vec<String>,
}

impl Usual {
    pub fn parts(&self, of: &BmcIdentity) -> UsualBmc {
        UsualBmc {
            vendor: self.vendors.contains(&of.vendor),
            firmware: self.firmwares.contains(&of.firmware),
        }
    }
}

pub async fn usual(conn: &mut PgConnection) -> sqlx::Result<Usual> {
    let row = sqlx::query!(
        r#"with answered as (select vendor, firmware from bmc_identity where vendor <> ''),
                half as (select count(*) / 2 as rows from answered)
           select array(select vendor from answered group by vendor
                        having count(*) > (select rows from half)) as "vendors!",
                  array(select firmware from answered group by firmware
                        having count(*) > (select rows from half)) as "firmwares!""#
    )
    .fetch_one(conn)
    .await?;
    Ok(Usual { vendors: row.vendors, firmwares: row.firmwares })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> HostName {
        name.parse().unwrap()
    }

    fn said(vendor: &str, firmware: &str) -> Option<BmcIdentity> {
        Some(BmcIdentity { vendor: vendor.into(), firmware: firmware.into() })
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_bmc_that_is_silent_now_stays_who_it_was(pool: PgPool) {
        let hosts = ["web01", "web02", "web03"].map(named);
        let day = Duration::from_secs(86_400);
        let [one, two, _] = &hosts;
        keep(&pool, &[(one.clone(), said("Dell", "Dell 1")), (two.clone(), None)]).await.unwrap();
        keep(&pool, &[(one.clone(), None)]).await.unwrap();
        let kept: (String, String) =
            sqlx::query_as("select vendor, firmware from bmc_identity where host = 'web01'")
                .fetch_one(&pool)
                .await
                .unwrap();
        assert_eq!(kept, ("Dell".into(), "Dell 1".into()));
        assert_eq!(due(&pool, &hosts, day).await.unwrap(), [named("web03")]);
        assert_eq!(due(&pool, &hosts, Duration::ZERO).await.unwrap().len(), 3);
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn what_most_of_the_fleet_has_says_nothing(pool: PgPool) {
        let mut answers = vec![(named("db01"), None)];
        for number in 1..=10 {
            let firmware = if number <= 4 { "Dell 2" } else { "Dell 1" };
            answers.push((named(&format!("web{number:02}")), said("Dell", firmware)));
        }
        keep(&pool, &answers).await.unwrap();
        let usual = usual(&mut pool.acquire().await.unwrap()).await.unwrap();
        let parts = |firmware| usual.parts(&said("Dell", firmware).unwrap());
        assert_eq!(parts("Dell 2"), UsualBmc { vendor: true, firmware: false });
        assert_eq!(parts("Dell 1"), UsualBmc { vendor: true, firmware: true });
    }
}
