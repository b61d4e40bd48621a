package daemon

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// healthLimit is how long a loop may take to answer before it counts as stuck.
const healthLimit = time.Second

// healthHandler answers 200 when the loop of every VM that list returns answers
// in time.
func healthHandler(list func() []*vm) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), healthLimit)
		defer cancel()
		for _, v := range list() {
			if !v.up() {
				http.Error(w, v.name+": it has failed", http.StatusServiceUnavailable)
				return
			}
			if !v.alive(ctx) {
				http.Error(w, v.name+": the event loop does not answer", http.StatusServiceUnavailable)
				return
			}
		}
		fmt.Fprintln(w, "ok")
	})
}

// alive reports whether the VM's loop answers before ctx ends. It is safe for
// concurrent use.
func (v *vm) alive(ctx context.Context) bool {
	select {
	case <-v.probe.ask(v.loop.Do, func() struct{} { return struct{}{} }).given:
		return true
	case <-v.done: // it leaves, or will be among those that failed
		return true
	case <-ctx.Done():
		return false
	}
}

// question is what a loop is asked. It is asked once at a time, so that those who
// ask a stuck loop do not pile up in it.
type question[T any] struct {
	mu      sync.Mutex
	pending *answer[T] // guarded by mu
}

// answer is what a loop answers to all who asked at the time.
type answer[T any] struct {
	given chan struct{} // closed by the loop
	value T             // to be read once given is closed
}

// ask has a loop run find as a function that do queues, unless one is queued.
func (q *question[T]) ask(do func(func()), find func() T) *answer[T] {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.pending != nil {
		select {
		case <-q.pending.given:
		default:
			return q.pending
		}
	}
	a := &answer[T]{given: make(chan struct{})}
	q.pending = a
	do(func() {
		a.value = find()
		close(a.given)
	})
	return a
}
