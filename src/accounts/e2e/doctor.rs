//! Whether the rows of end-to-end encryption agree with each other.

use std::collections::BTreeMap;

use resuni_store::{ScanRange, Snapshot, StoreError};

use super::tables::{
    DEHYDRATED, DEVICE_KEYS, DEVICE_LIST_OF, DEVICE_LISTS, FALLBACK, ONE_TIME, ONE_TIME_COUNTS,
    ONE_TIME_IDS, TO_DEVICE, TO_DEVICE_SENT,
};
use crate::{
    doctor::{each, page},
    tables::{DEVICE, EXPIRY, ShortTokenKind},
};

/// Adds a sentence for each contradiction.
pub(crate) async fn check(
    snapshot: &Snapshot,
    findings: &mut Vec<String>,
) -> Result<(), StoreError> {
    check_owners(snapshot, findings).await?;
    check_one_time(snapshot, findings).await?;
    each!(snapshot, DEVICE_LISTS, |position, user| {
        if snapshot.get(&DEVICE_LIST_OF, user).await? != Some(*position) {
            findings.push(format!(
                "The list of changed keys has an old row of {user}."
            ));
        }
    });
    each!(snapshot, DEVICE_LIST_OF, |user, position| {
        if snapshot.get(&DEVICE_LISTS, position).await?.as_ref() != Some(user) {
            findings.push(format!(
                "The change of the keys of {user} is not in the list."
            ));
        }
    });
    each!(snapshot, TO_DEVICE_SENT, |hash, forget_at| {
        let kind = snapshot.get(&EXPIRY, &(*forget_at, *hash)).await?;
        if kind != Some(ShortTokenKind::Sent) {
            findings.push("A request to send to devices will never be forgotten.".to_owned());
        }
    });
    Ok(())
}

/// Keys and messages belong to devices.
async fn check_owners(snapshot: &Snapshot, findings: &mut Vec<String>) -> Result<(), StoreError> {
    each!(snapshot, DEVICE_KEYS, |key, _| {
        if !snapshot.contains(&DEVICE, key).await? {
            findings.push(format!("Device {} has keys but does not exist.", key.1));
        }
    });
    each!(snapshot, DEHYDRATED, |account, row| {
        if !snapshot
            .contains(&DEVICE, &(*account, row.device.clone()))
            .await?
        {
            findings.push(format!(
                "Device {} is dehydrated but does not exist.",
                row.device
            ));
        }
    });
    each!(snapshot, FALLBACK, |(account, device, _), _| {
        if !snapshot
            .contains(&DEVICE, &(*account, device.clone()))
            .await?
        {
            findings.push(format!(
                "Device {device} has a fallback key but does not exist."
            ));
        }
    });
    each!(snapshot, TO_DEVICE, |(account, device, _), _| {
        if !snapshot
            .contains(&DEVICE, &(*account, device.clone()))
            .await?
        {
            findings.push(format!("Device {device} has messages but does not exist."));
        }
    });
    Ok(())
}

/// One-time keys are counted right and have their ids.
async fn check_one_time(snapshot: &Snapshot, findings: &mut Vec<String>) -> Result<(), StoreError> {
    let mut left = BTreeMap::<_, u64>::new();
    each!(snapshot, ONE_TIME, |(account, device, algorithm, place),
                               key| {
        let owner = (*account, device.clone(), algorithm.clone());
        *left.entry(owner).or_default() += 1;
        let by_id = (*account, device.clone(), algorithm.clone(), key.id.clone());
        if snapshot.get(&ONE_TIME_IDS, &by_id).await? != Some(*place) {
            findings.push(format!("One-time key {} of {device} has no id.", key.id));
        }
    });
    each!(
        snapshot,
        ONE_TIME_IDS,
        |(account, device, algorithm, id), place| {
            let key = (*account, device.clone(), algorithm.clone(), *place);
            if !snapshot.contains(&ONE_TIME, &key).await? {
                findings.push(format!("One-time key {id} of {device} does not exist."));
            }
        }
    );
    each!(snapshot, ONE_TIME_COUNTS, |key, count| {
        let is = left.remove(key).unwrap_or(0);
        if is != count.left {
            findings.push(format!(
                "Device {} has {is} one-time keys, but {} are counted.",
                key.1, count.left
            ));
        }
        if !snapshot.contains(&DEVICE, &(key.0, key.1.clone())).await? {
            findings.push(format!(
                "Device {} has one-time keys but does not exist.",
                key.1
            ));
        }
    });
    for (key, _) in left {
        findings.push(format!("The one-time keys of {} are not counted.", key.1));
    }
    Ok(())
}
