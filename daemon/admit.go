package daemon

import (
	"fmt"
	"slices"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/config"
	"github.com/vhost-user-vsock/vhost-user-vsock/control"
)

// Changes of one VM beside the configuration. A reload leaves a VM that came so
// alone, unless the configuration has it then, and brings one back that it has.

// admit serves another VM and returns what it is. After an error nothing has
// changed. It is safe for concurrent use.
func (f *fleet) admit(cfg config.VM) (control.VM, error) {
	f.changing.Lock()
	defer f.changing.Unlock()
	defer f.shareLimits()
	if slices.ContainsFunc(f.list(), func(v *vm) bool { return v.mayBe(cfg.Name) }) {
		return control.VM{}, fmt.Errorf("name %q: %w; give each a name of its own", cfg.Name, config.ErrTaken)
	}
	v := newVM(cfg, control.FromControl, f)
	if err := f.openBeside(v, f.holding()); err != nil {
		return control.VM{}, gather(err, v.end())
	}
	if err := f.enlist(v, nil); err != nil {
		return control.VM{}, err
	}
	v.log.Info("VM is added by the control interface")
	f.mu.Lock()
	defer f.mu.Unlock()
	return v.describe(), nil
}

// mayBe reports whether the VM has the name, or has it when its frontend has left.
func (v *vm) mayBe(name string) bool {
	wanted := v.wanted.Load()
	return v.name == name || wanted != nil && wanted.cfg.Name == name
}

// named returns the VM that has the name, or nil. It is safe for concurrent use.
func (f *fleet) named(name string) *vm {
	for _, v := range f.list() {
		if v.name == name {
			return v
		}
	}
	return nil
}

// drained is what came of a drain.
type drained struct {
	cut int64 // connections that there were at the end
	err error
}

// drain dismisses a VM that takes no new connections from now on, when the last one is
// over or, unless it is 0, when limit has passed; it tells by the channel. It is safe
// for concurrent use, also several times for one VM.
func (f *fleet) drain(v *vm, limit time.Duration) (<-chan drained, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closing {
		return nil, errClosing
	}
	v.log.WithField("timeout", limit.String()).Info("VM is drained by the control interface")
	ended := make(chan drained, 1)
	f.watchers.Go(func() {
		v.drain(limit)
		cut, err := f.dismiss(v)
		ended <- drained{cut, err}
	})
	return ended, nil
}

// drain has the VM take no new connections, and returns when the last one is over,
// when limit has passed, unless it is 0, or when the VM has ended otherwise or is
// abandoned. It is safe for concurrent use, also several times.
func (v *vm) drain(limit time.Duration) {
	if !v.up() {
		return
	}
	if !v.draining.Swap(true) {
		v.loop.Do(func() { v.muxer.Drain(func() { close(v.drained) }) })
	}
	var late <-chan time.Time
	if limit > 0 {
		late = time.After(limit)
	}
	select {
	case <-v.drained:
	case <-v.done:
	case <-v.abandoned:
	case <-late:
	}
}

// dismiss ends a VM, as at the end of the program, and returns when it is gone, and
// how many connections it had; errAbandoned if it could not end in time. It is safe
// for concurrent use.
func (f *fleet) dismiss(v *vm) (cut int64, err error) {
	f.changing.Lock()
	defer f.changing.Unlock()
	f.mu.Lock()
	there, closing := slices.Contains(f.vms, v), f.closing
	f.mu.Unlock()
	switch {
	case closing:
		return 0, errClosing
	case there:
		f.remove([]*vm{v})
		f.shareLimits()
		if v.isAbandoned() {
			return v.cut, fmt.Errorf("VM %q: %w; its name and paths are taken until it has ended", v.name, errAbandoned)
		}
		v.log.WithField("connections_cut", v.cut).Info("VM is removed by the control interface")
	}
	return v.cut, nil
}
