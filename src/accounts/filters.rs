//! Filters that clients store and then name by their number.

use std::sync::Arc;

use resuni_store::{Batch, Direction, ScanRange};
use ruma::api::client::filter::FilterDefinition;
use serde_json::{Map, Value, value::RawValue};

use crate::{
    AccountNum, Accounts,
    error::AccountError,
    secrets,
    tables::{FILTER_HASHES, FILTERS},
};

/// The largest filter in bytes.
pub const MAX_FILTER_BYTES: usize = 32 * 1024;
/// Filters that an account keeps. Beyond it the oldest goes: clients upload theirs anew when a
/// number is unknown.
const FILTERS_PER_ACCOUNT: u64 = 1_000;

impl Accounts {
    /// Stores a filter and answers its number. An equal one is stored once.
    pub async fn store_filter(
        &self,
        account: AccountNum,
        filter: &Map<String, Value>,
    ) -> Result<u64, AccountError> {
        let json = Value::Object(filter.clone()).to_string();
        if json.len() > MAX_FILTER_BYTES {
            return Err(AccountError::TooLarge {
                what: "A filter",
                limit: MAX_FILTER_BYTES,
            });
        }
        parse(&json)?;
        let hash = secrets::hash(&json);
        let (number, applied) = {
            let _lane = self.lanes.enter(account).await;
            let snapshot = self.snapshot();
            if let Some(known) = snapshot.get(&FILTER_HASHES, &(account, hash)).await? {
                return Ok(known);
            }
            let last = snapshot
                .scan(
                    &FILTERS,
                    ScanRange::prefix(&account),
                    Direction::Backward,
                    1,
                )
                .await?;
            let number = last.first().map_or(0, |((_, number), _)| number + 1);
            let mut batch = Batch::new();
            if let Some(oldest) = number.checked_sub(FILTERS_PER_ACCOUNT) {
                let key = (account, oldest);
                if let Some(json) = snapshot.get(&FILTERS, &key).await? {
                    batch.delete(&FILTERS, &key);
                    batch.delete(&FILTER_HASHES, &(account, secrets::hash(&json)));
                }
            }
            batch.put(&FILTERS, &(account, number), &json);
            batch.put(&FILTER_HASHES, &(account, hash), &number);
            (number, self.store.commit(batch).await?)
        };
        applied.durable().await?;
        Ok(number)
    }

    /// A stored filter as its client wrote it.
    pub async fn filter_json(
        &self,
        account: AccountNum,
        number: u64,
    ) -> Result<Option<Box<RawValue>>, AccountError> {
        let row = self.snapshot().get(&FILTERS, &(account, number)).await?;
        row.map(|json| {
            RawValue::from_string(json).map_err(|error| {
                AccountError::Internal(format!("A stored filter is not JSON: {error}"))
            })
        })
        .transpose()
    }

    /// A stored filter, ready for use. Filters do not change, so they stay in memory.
    pub async fn filter(
        &self,
        account: AccountNum,
        number: u64,
    ) -> Result<Option<Arc<FilterDefinition>>, AccountError> {
        self.filters
            .get_or_load((account, number), || async move {
                let row = self.snapshot().get(&FILTERS, &(account, number)).await?;
                row.as_deref().map(parse).transpose()
            })
            .await
    }
}

fn parse(json: &str) -> Result<FilterDefinition, AccountError> {
    serde_json::from_str(json)
        .map_err(|error| AccountError::InvalidParam(format!("This is not a filter: {error}.")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{accounts, alice, bob};

    fn filter(limit: u64) -> Map<String, Value> {
        let filter = json!({"room": {"timeline": {"limit": limit}}, "org.example": true});
        filter.as_object().unwrap().clone()
    }

    #[tokio::test]
    async fn equal_filters_are_stored_once() {
        let accounts = accounts().await;
        let (alice, bob) = (alice(&accounts).await, bob(&accounts).await);
        let ten = accounts.store_filter(alice, &filter(10)).await.unwrap();
        let twenty = accounts.store_filter(alice, &filter(20)).await.unwrap();
        assert_ne!(ten, twenty);
        assert_eq!(
            accounts.store_filter(alice, &filter(10)).await.unwrap(),
            ten
        );
        let read = accounts.filter(alice, ten).await.unwrap().unwrap();
        assert_eq!(read.room.timeline.limit, Some(10u32.into()));
        let json = accounts.filter_json(alice, ten).await.unwrap().unwrap();
        assert!(json.get().contains("org.example"), "as it was written");
        assert!(accounts.filter(bob, ten).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_is_no_filter_is_refused() {
        let accounts = accounts().await;
        let alice = alice(&accounts).await;
        let bad = json!({"room": {"timeline": {"limit": "ten"}}});
        let bad = bad.as_object().unwrap();
        assert!(matches!(
            accounts.store_filter(alice, bad).await,
            Err(AccountError::InvalidParam(_))
        ));
        let large = Map::from_iter([("x".to_owned(), json!("y".repeat(MAX_FILTER_BYTES)))]);
        assert!(accounts.store_filter(alice, &large).await.is_err());
    }

    #[tokio::test]
    async fn an_account_keeps_its_newest_filters() {
        let accounts = accounts().await;
        let alice = alice(&accounts).await;
        for limit in 0..FILTERS_PER_ACCOUNT + 5 {
            accounts.store_filter(alice, &filter(limit)).await.unwrap();
        }
        assert!(accounts.filter_json(alice, 4).await.unwrap().is_none());
        assert!(accounts.filter_json(alice, 5).await.unwrap().is_some());
        let again = accounts.store_filter(alice, &filter(0)).await.unwrap();
        assert_eq!(again, FILTERS_PER_ACCOUNT + 5);
        let snapshot = accounts.snapshot();
        assert_eq!(
            accounts.doctor(&snapshot).await.unwrap(),
            Vec::<String>::new()
        );
    }
}
