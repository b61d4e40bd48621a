package daemon

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// healthLimit is how long a loop may take to answer before it counts as stuck.
	healthLimit = time.Second

	// healthPeriod is how often the loops are asked without anybody asking for it.
	healthPeriod = 5 * time.Second
)

// healthHandler answers 200 when every VM that list returns is served and its loop
// answers in time.
func healthHandler(list func() []*vm) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		vms := list()
		stuck := examine(r.Context(), vms)
		wrong := complaints(vms, func(v *vm) bool { return slices.Contains(stuck, v) })
		if len(wrong) > 0 {
			http.Error(w, strings.Join(wrong, "\n"), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
}

// complaints says what is wrong with VMs.
func complaints(vms []*vm, stuck func(*vm) bool) (all []string) {
	for _, v := range vms {
		switch {
		case v.isAbandoned():
			all = append(all, fmt.Sprintf("VM %s: %v", v.name, errAbandoned))
		case !v.up():
			all = append(all, fmt.Sprintf("VM %s: it has failed", v.name))
		case stuck(v):
			all = append(all, fmt.Sprintf("VM %s: its event loop does not answer", v.name))
		}
	}
	return all
}

// examine returns those of vms whose loops do not answer in time, or before ctx ends.
func examine(ctx context.Context, vms []*vm) (stuck []*vm) {
	answered := make(map[*vm]<-chan struct{})
	for _, v := range vms {
		if v.up() || v.isAbandoned() {
			answered[v] = v.probe.ask(v.loop.Do, func() struct{} { return struct{}{} }).given
			stuck = append(stuck, v)
		}
	}
	return late(ctx, stuck, answered)
}

// late returns those of vms that do not close their channel of answered in time, or
// before ctx ends. It owns vms.
func late(ctx context.Context, vms []*vm, answered map[*vm]<-chan struct{}) []*vm {
	for range 2 { // should the whole machine stand still, the second wait begins after that
		half, cancel := context.WithTimeout(ctx, healthLimit/2)
		vms = slices.DeleteFunc(vms, func(v *vm) bool { return v.answers(half, answered[v]) })
		cancel()
	}
	return vms
}

// answers reports whether the VM's loop closes answered before ctx ends. A loop that
// has ended is not stuck: the VM leaves, or will be among those that failed.
func (v *vm) answers(ctx context.Context, answered <-chan struct{}) bool {
	select {
	case <-answered:
		return true
	case <-v.done:
		return true
	case <-ctx.Done():
	}
	select {
	case <-answered: // while another one was waited for
		return true
	case <-v.done:
		return true
	default:
		return false
	}
}

// watchHealth asks the loops every healthPeriod until ctx ends. That one got stuck, or
// goes on, is seen in its metric and the log; examined is told each time, if it listens.
func (f *fleet) watchHealth(ctx context.Context, examined chan<- struct{}) {
	tick := time.NewTicker(healthPeriod)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		vms := f.list()
		stuck := examine(ctx, vms)
		if ctx.Err() != nil {
			return
		}
		for _, v := range vms {
			v.setStuck(slices.Contains(stuck, v))
		}
		select {
		case examined <- struct{}{}:
		default:
		}
	}
}

// setStuck notes whether the VM's loop does not answer.
func (v *vm) setStuck(stuck bool) {
	switch was := v.stuck(); {
	case stuck && !was:
		v.log.Error("event loop does not answer")
		v.stats.stuck.Set(1)
	case was && !stuck:
		v.log.Info("event loop answers again")
		v.stats.stuck.Set(0)
	}
}

// stuck reports whether the VM's loop did not answer when it was last asked. It is
// safe for concurrent use.
func (v *vm) stuck() bool { return v.stats.stuck.Load() != 0 }

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
