// Package rxq orders what waits to be sent to the guest.
//
// A queue has two lanes: resets, which leave first, and the ready lane, where
// an item with more to say goes to the back and so takes turns with the others.
// Both are bounded. A reset cannot be made up again, so a full reset lane is
// back-pressure for the owner. An item of the ready lane can be found again in
// the owner's table, so that lane may overflow: the queue then drains and is
// rebuilt from the table.
package rxq

import "iter"

// Queue holds items that have something for the guest. It is confined to the
// goroutine of its owner, and pushing and popping allocate nothing.
type Queue[T any] struct {
	resets ring[T]
	ready  ring[T]
	lost   bool // the ready lane refused an item since it was last rebuilt
}

// New returns an empty queue with room for that many resets and ready items.
func New[T any](resets, ready int) *Queue[T] {
	return &Queue[T]{
		resets: ring[T]{slots: make([]T, resets)},
		ready:  ring[T]{slots: make([]T, ready)},
	}
}

// PushReset appends v to the lane that leaves first. It returns false when the
// lane is full: v is not queued, and the owner must take no more work that may
// end in a reset until one has left.
func (q *Queue[T]) PushReset(v T) bool { return q.resets.push(v) }

// PushReady appends v to the ready lane. It returns false when v was not queued
// because the lane is full or has overflowed before: the queue is then unsynced
// until Rebuild. An unsynced lane takes nothing although it has room, for else
// those it refused might wait for ever behind those that come back for more.
func (q *Queue[T]) PushReady(v T) bool {
	if q.lost || !q.ready.push(v) {
		q.lost = true
		return false
	}
	return true
}

// Pop takes the oldest reset, or without one the oldest ready item. It returns
// false when the queue is empty; an unsynced queue is then due for Rebuild.
func (q *Queue[T]) Pop() (v T, ok bool) {
	if v, ok = q.resets.pop(); ok {
		return v, true
	}
	return q.ready.pop()
}

// Rebuild refills the ready lane from the owner's table; what the lane still
// held is forgotten, resets stay. Should the table yield more than the lane
// holds, the rest is not asked for and the queue is unsynced again: a table
// with a fixed order must then begin the next time with the item that was
// refused, or its end starves.
func (q *Queue[T]) Rebuild(ready iter.Seq[T]) {
	q.ready.clear()
	q.lost = false
	for v := range ready {
		if !q.PushReady(v) {
			return
		}
	}
}

// Clear forgets everything; the queue is synced.
func (q *Queue[T]) Clear() {
	q.resets.clear()
	q.ready.clear()
	q.lost = false
}

// Len returns the number of items in both lanes.
func (q *Queue[T]) Len() int { return q.resets.n + q.ready.n }

// Resets returns the number of items in the reset lane.
func (q *Queue[T]) Resets() int { return q.resets.n }

// ResetsFull reports whether PushReset would return false.
func (q *Queue[T]) ResetsFull() bool { return q.resets.full() }

// Synced reports whether every item that has something for the guest is queued,
// as far as the queue was told.
func (q *Queue[T]) Synced() bool { return !q.lost }
