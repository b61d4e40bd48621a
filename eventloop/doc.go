// Package eventloop serves descriptors, deadlines and calls from other
// goroutines on one goroutine.
//
// One turn of the loop:
//
//	wait     until a descriptor is ready or the worker's deadline is due;
//	         only look, without sleeping, while the worker has more to do
//	now      read the clock once for the whole turn
//	calls    what Do queued, in order
//	handlers one call for each ready descriptor
//	expire   the worker's Expire when its deadline has come
//	work     the worker's Work
//	look     the worker's Look, when it has no more to do and the loop polls, which see Poll
//	rest     the worker's Rest, when it has no more to do and the loop will sleep
//
// Whatever runs there may touch everything else that runs there without a
// lock. Nothing in a turn allocates.
package eventloop
