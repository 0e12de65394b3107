//! What takes a while: who asked for it comes back to see how far it is.

use std::collections::HashMap;

use parking_lot::Mutex;

/// Jobs that are remembered; the oldest that are over are forgotten.
const JOBS: usize = 1_000;
/// How long they are, in milliseconds.
const KEEP_MS: u64 = 24 * 60 * 60 * 1000;

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobStatus {
    /// Under way.
    Active,
    /// Done.
    Complete,
    /// Given up, for this reason.
    Failed(String),
}

/// Something that is done about a room or a user, for who asks how far it is.
#[derive(Debug, Clone)]
pub struct Job<A, R> {
    /// Its id.
    pub id: String,
    /// What it is about.
    pub about: A,
    /// How far it is.
    pub status: JobStatus,
    /// What came of it so far.
    pub report: R,
    /// When it began, in milliseconds since 1970.
    began_ms: u64,
}

/// The jobs of one kind of this run of the server: after a restart nobody knows of them any more.
#[derive(Debug)]
pub struct Jobs<A, R>(Mutex<HashMap<String, Job<A, R>>>);

impl<A, R> Default for Jobs<A, R> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<A: Clone + PartialEq, R: Clone + Default> Jobs<A, R> {
    /// A new one; the answer is its id.
    pub(crate) fn begin(&self, about: A, now_ms: u64) -> String {
        let id = format!("{:032x}", rand::random::<u128>());
        let mut jobs = self.0.lock();
        jobs.retain(|_, job| {
            job.status == JobStatus::Active || now_ms < job.began_ms.saturating_add(KEEP_MS)
        });
        if jobs.len() >= JOBS {
            let over = jobs.values().filter(|job| job.status != JobStatus::Active);
            let oldest = over
                .min_by_key(|job| job.began_ms)
                .map(|job| job.id.clone());
            if let Some(oldest) = oldest {
                jobs.remove(&oldest);
            }
        }
        let job = Job {
            id: id.clone(),
            about,
            status: JobStatus::Active,
            report: R::default(),
            began_ms: now_ms,
        };
        jobs.insert(id.clone(), job);
        id
    }

    pub(crate) fn report(&self, id: &str, report: R) {
        if let Some(job) = self.0.lock().get_mut(id) {
            job.report = report;
        }
    }

    pub(crate) fn end(&self, id: &str, status: JobStatus) {
        if let Some(job) = self.0.lock().get_mut(id) {
            job.status = status;
        }
    }

    /// One of them.
    pub fn of_id(&self, id: &str) -> Option<Job<A, R>> {
        self.0.lock().get(id).cloned()
    }

    /// Those about the same, oldest first.
    pub fn about(&self, about: &A) -> Vec<Job<A, R>> {
        let jobs = self.0.lock();
        let mut found: Vec<_> = jobs
            .values()
            .filter(|job| job.about == *about)
            .cloned()
            .collect();
        found.sort_by_key(|job| job.began_ms);
        found
    }

    /// Whether something about the same is under way.
    pub(crate) fn is_active(&self, about: &A) -> bool {
        let jobs = self.0.lock();
        jobs.values()
            .any(|job| job.about == *about && job.status == JobStatus::Active)
    }
}
