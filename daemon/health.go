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
	ctx, cancel := context.WithTimeout(ctx, healthLimit)
	defer cancel()
	answers := make([]<-chan struct{}, len(vms))
	for i, v := range vms {
		if v.up() {
			answers[i] = v.probe.ask(v.loop.Do)
		}
	}
	for i, v := range vms {
		if answers[i] != nil && !v.answers(ctx, answers[i]) {
			stuck = append(stuck, v)
		}
	}
	return stuck
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
	default:
		return false
	}
}

// watchHealth asks the loops every healthPeriod until ctx ends. That one got stuck, or
// goes on, is seen in its metric and the log, and each time changed gets the new status.
func (f *fleet) watchHealth(ctx context.Context, changed chan<- string) {
	tick := time.NewTicker(healthPeriod)
	defer tick.Stop()
	for last := ""; ; {
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
		text := status(vms)
		if text == last {
			continue
		}
		select {
		case changed <- text:
			last = text
		case <-ctx.Done():
			return
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
