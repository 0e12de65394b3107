//! Route tables: a handler is registered on every path that ruma's metadata gives for its request,
//! stable, legacy (`r0`) and unstable.

use axum::{
    Extension, Router,
    handler::Handler,
    routing::{MethodFilter, on},
};
use http::Method;
use ruma::api::{IncomingRequest, Metadata, path_builder::PathBuilder};

use crate::{
    AppState,
    auth::Authenticate,
    extract::{Policy, Ruma},
    operator::Operator,
};

/// A table of endpoints that becomes a router.
#[derive(Default)]
pub struct Routes {
    router: Router<AppState>,
    listed: Vec<Listed>,
}

/// One line of a table, for those who want to read it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The method.
    pub method: Method,
    /// The path, with its variables in braces.
    pub path: String,
    /// Whether it needs an access token.
    pub needs_token: bool,
    /// Whether it needs another server's signature.
    pub needs_signature: bool,
    /// Its policy.
    pub policy: Policy,
}

impl Routes {
    /// An empty table.
    pub fn new() -> Routes {
        Routes::default()
    }

    /// A client's endpoint, not open to guests.
    pub fn on<H, T>(self, handler: H) -> Routes
    where
        H: Handler<T, AppState>,
        T: Endpoint,
    {
        self.with(Policy::CLIENT, handler)
    }

    /// A client's endpoint that guests may use too.
    pub fn guest<H, T>(self, handler: H) -> Routes
    where
        H: Handler<T, AppState>,
        T: Endpoint,
    {
        self.with(Policy::GUEST, handler)
    }

    /// An endpoint under this policy, on all the paths of its request.
    pub fn with<H, T>(self, policy: Policy, handler: H) -> Routes
    where
        H: Handler<T, AppState>,
        T: Endpoint,
    {
        let paths: Vec<&str> = <T::Request as Metadata>::PATH_BUILDER.all_paths().collect();
        self.at(&paths, policy, handler)
    }

    /// An endpoint under this policy, on these paths only.
    pub fn at<H, T>(mut self, paths: &[&str], policy: Policy, handler: H) -> Routes
    where
        H: Handler<T, AppState>,
        T: Endpoint,
    {
        let method = <T::Request as Metadata>::METHOD;
        #[expect(clippy::expect_used, reason = "a constant of the request's type")]
        let filter = MethodFilter::try_from(method).expect("Matrix uses the usual methods");
        for path in paths {
            let route = on(filter, handler.clone()).layer(Extension(policy));
            self.router = self.router.route(path, route);
            self.listed.push(Listed {
                method: <T::Request as Metadata>::METHOD,
                path: (*path).to_owned(),
                needs_token: <T::Request as Metadata>::Authentication::NEEDS_TOKEN,
                needs_signature: <T::Request as Metadata>::Authentication::COVERS_BODY,
                policy,
            });
        }
        self
    }

    /// An endpoint for operators alone: its handler begins with who that is.
    pub fn operator<H, T>(mut self, method: Method, path: &str, handler: H) -> Routes
    where
        H: Handler<T, AppState>,
        T: OperatorsOnly + 'static,
    {
        #[expect(clippy::expect_used, reason = "a constant of the table")]
        let filter = MethodFilter::try_from(method.clone()).expect("these are the usual methods");
        let policy = crate::operator::POLICY;
        let route = on(filter, handler).layer(Extension(policy));
        self.router = self.router.route(path, route);
        self.listed.push(Listed {
            method,
            path: path.to_owned(),
            needs_token: true,
            needs_signature: false,
            policy,
        });
        self
    }

    /// Something that isn't a typed endpoint.
    pub fn raw(mut self, router: Router<AppState>) -> Routes {
        self.router = self.router.merge(router);
        self
    }

    /// Both tables.
    pub fn merge(mut self, other: Routes) -> Routes {
        self.router = self.router.merge(other.router);
        self.listed.extend(other.listed);
        self
    }

    /// The typed endpoints of this table.
    pub fn listed(&self) -> &[Listed] {
        &self.listed
    }

    /// The router of this table.
    pub fn into_router(self) -> Router<AppState> {
        self.router
    }
}

/// The arguments of a handler whose first one is an [`Operator`].
pub trait OperatorsOnly {}

macro_rules! operators_only {
    ($($argument:ident),*) => {
        impl<M, $($argument),*> OperatorsOnly for (M, Operator, $($argument),*) {}
    };
}

operators_only!();
operators_only!(A);
operators_only!(A, B);
operators_only!(A, B, C);
operators_only!(A, B, C, D);
operators_only!(A, B, C, D, E);
operators_only!(A, B, C, D, E, F);

/// The arguments of a handler whose last one is a [`Ruma`] request.
pub trait Endpoint: 'static {
    /// That request's type.
    type Request: IncomingRequest<Authentication: Authenticate>;
}

macro_rules! endpoint {
    ($($argument:ident),*) => {
        impl<M, $($argument,)* R> Endpoint for (M, $($argument,)* Ruma<R>)
        where
            M: 'static,
            $($argument: 'static,)*
            R: IncomingRequest<Authentication: Authenticate> + 'static,
        {
            type Request = R;
        }
    };
}

endpoint!();
endpoint!(A);
endpoint!(A, B);
endpoint!(A, B, C);
endpoint!(A, B, C, D);
