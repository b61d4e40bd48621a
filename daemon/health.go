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
	case <-v.probe.ask(v.loop.Do):
		return true
	case <-v.done: // it leaves, or will be among those that failed
		return true
	case <-ctx.Done():
		return false
	}
}

// probe is a question to a loop. There is one at a time, so that those who ask
// a stuck loop do not pile up in it.
type probe struct {
	mu      sync.Mutex
	pending chan struct{} // guarded by mu; closed by the loop's answer
}

// ask returns a channel that is closed once a loop has run a function that do
// queued.
func (p *probe) ask(do func(func())) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pending != nil {
		select {
		case <-p.pending: // answered
		default:
			return p.pending
		}
	}
	answered := make(chan struct{})
	p.pending = answered
	do(func() { close(answered) })
	return answered
}
