//! The breaker as a tower layer that admits or rejects calls.
//!
//! It does not judge responses; incidents are reported elsewhere. It is the only file that reads a clock, which the
//! caller provides so that tests can pause it. The circuit is checked in `call`, not in `poll_ready`: a service may be
//! ready long before it is used.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use tower::{Layer, Service};

use crate::{circuit::Rejected, handle::Breaker};

/// Layer that puts a [`Breaker`] in front of a service whose error can hold a [`Rejected`].
#[derive(Clone, Debug)]
pub struct BreakerLayer {
    breaker: Breaker,
    clock: fn() -> Instant,
}

/// A service behind a [`Breaker`].
#[derive(Clone, Debug)]
pub struct BreakerService<S> {
    inner: S,
    breaker: Breaker,
    clock: fn() -> Instant,
}

/// The admitted call, or the rejection.
pub struct BreakerFuture<F>(Verdict<F>);

enum Verdict<F> {
    // Boxed: pinning a field in place would need unsafe code or another package.
    Admitted(Pin<Box<F>>),
    Refused(Rejected),
}

impl BreakerLayer {
    /// Creates a layer with this breaker and clock.
    #[must_use]
    pub fn new(breaker: Breaker, clock: fn() -> Instant) -> Self {
        Self { breaker, clock }
    }
}

impl<S> Layer<S> for BreakerLayer {
    type Service = BreakerService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        BreakerService { inner, breaker: self.breaker.clone(), clock: self.clock }
    }
}

impl<S, R> Service<R> for BreakerService<S>
where
    S: Service<R>,
    S::Error: From<Rejected>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BreakerFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        BreakerFuture(match self.breaker.admit((self.clock)()) {
            Ok(()) => Verdict::Admitted(Box::pin(self.inner.call(request))),
            Err(rejected) => Verdict::Refused(rejected),
        })
    }
}

impl<F, T, E> Future for BreakerFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: From<Rejected>,
{
    type Output = Result<T, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Verdict::Admitted(call) => call.as_mut().poll(cx),
            Verdict::Refused(rejected) => Poll::Ready(Err((*rejected).into())),
        }
    }
}

impl<F> fmt::Debug for BreakerFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Verdict::Admitted(_) => "BreakerFuture::Admitted",
            Verdict::Refused(_) => "BreakerFuture::Refused",
        })
    }
}

#[cfg(test)]
mod tests;
