// Package killq keeps deadlines: what has to be killed, and when.
//
// A queue is bounded. When it is full it gives up the latest deadline and
// remembers only the earliest of those it gave up. When that one comes, the
// owner rebuilds the queue from its table of what is alive, so that no deadline
// is ever missed.
//
// A deadline is not taken back: a disarmed one stays in the queue until it
// comes, and the owner, who knows the live deadline of each key, checks what
// it pops against that. The owner's routine is
//
//	for {
//		key, at, ok := q.PopExpired(now)
//		switch {
//		case ok:
//			kill(key, at) // if at is still the deadline of key
//		case q.NeedsRebuild(now):
//			q.Rebuild(live)
//		default:
//			return
//		}
//	}
package killq

import (
	"iter"
	"time"
)

// Queue holds deadlines as readings of its owner's clock, which may stand still
// but never goes back. It is confined to the goroutine of its owner, and only
// Rebuild may allocate.
type Queue[K any] struct {
	heap     heap[K]
	lost     time.Duration // the earliest deadline given up since the last rebuild
	unsynced bool          // lost is set
}

// New returns an empty queue with room for capacity deadlines, at least one.
func New[K any](capacity int) *Queue[K] {
	return &Queue[K]{heap: make(heap[K], 0, capacity)}
}

// Push arms a deadline for k. A full queue gives up the latest of its deadlines
// and this one.
func (q *Queue[K]) Push(k K, at time.Duration) {
	if len(q.heap) == cap(q.heap) {
		latest := q.heap.latest()
		if at >= q.heap[latest].at {
			q.lose(at)
			return
		}
		q.lose(q.heap.remove(latest).at)
	}
	q.heap.push(entry[K]{at, k})
}

// lose notes that the deadline at was given up.
func (q *Queue[K]) lose(at time.Duration) {
	if !q.unsynced || at < q.lost {
		q.unsynced, q.lost = true, at
	}
}

// PopExpired takes the earliest deadline out if it has come: at <= now.
func (q *Queue[K]) PopExpired(now time.Duration) (k K, at time.Duration, ok bool) {
	if len(q.heap) == 0 || q.heap[0].at > now {
		return k, 0, false
	}
	e := q.heap.remove(0)
	return e.key, e.at, true
}

// NextDeadline returns when PopExpired or NeedsRebuild must be asked next; it
// returns false when nothing is armed.
func (q *Queue[K]) NextDeadline() (time.Duration, bool) {
	switch {
	case len(q.heap) == 0:
		return q.lost, q.unsynced
	case q.unsynced:
		return min(q.lost, q.heap[0].at), true
	default:
		return q.heap[0].at, true
	}
}

// NeedsRebuild reports whether a deadline that the queue gave up has come.
func (q *Queue[K]) NeedsRebuild(now time.Duration) bool {
	return q.unsynced && q.lost <= now
}

// Rebuild replaces the contents of the queue by the live deadlines, the
// earliest of them if there is no room for all; the queue is then unsynced
// again.
func (q *Queue[K]) Rebuild(live iter.Seq2[K, time.Duration]) {
	q.Clear()
	for k, at := range live {
		q.Push(k, at)
	}
}

// Clear forgets everything; the queue is synced.
func (q *Queue[K]) Clear() {
	clear(q.heap)
	q.heap = q.heap[:0]
	q.lost, q.unsynced = 0, false
}

// Len returns the number of deadlines held, disarmed ones included.
func (q *Queue[K]) Len() int { return len(q.heap) }

// Synced reports whether the queue holds every deadline it was given.
func (q *Queue[K]) Synced() bool { return !q.unsynced }
