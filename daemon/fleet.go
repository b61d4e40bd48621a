package daemon

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/sirupsen/logrus"

	"github.com/vhost-user-vsock/vhost-user-vsock/config"
	"github.com/vhost-user-vsock/vhost-user-vsock/control"
	"github.com/vhost-user-vsock/vhost-user-vsock/eventloop"
	"github.com/vhost-user-vsock/vhost-user-vsock/hostsock"
)

// fleet is the VMs that the process serves. Each ends alone. It is changed by apply,
// as the configuration says, and by admit, drain and dismiss, one VM at a time.
type fleet struct {
	log   logrus.FieldLogger
	own   hostsock.Registry // the sockets of all
	files uint64            // how many may be open

	processors *eventloop.Processors // nil if the kernel does not tell of them

	control string // path of the control socket, empty: there is none

	tails  context.Context // done: host programs are not waited for any more
	giveUp func()          // makes it so

	over     chan struct{}  // closed when the last VM has ended by itself
	isOver   func()         // closes over
	watchers sync.WaitGroup // one for each VM that was started, and for each drain

	changing sync.Mutex // held by who changes the fleet

	mu      sync.Mutex // never held for long
	vms     []*vm      // guarded by mu; those that failed included
	closing bool       // guarded by mu
}

func newFleet(log logrus.FieldLogger) *fleet {
	f := &fleet{log: log, over: make(chan struct{})}
	f.isOver = sync.OnceFunc(func() { close(f.over) })
	f.tails, f.giveUp = context.WithCancel(context.Background())
	return f
}

// open makes the VMs that the program starts with. After an error, those made
// are left to close.
func (f *fleet) open(vms []config.VM) error {
	limits, err := connectionLimits(vms, f.files)
	if err != nil {
		return err
	}
	useProcessors(len(vms))
	if f.processors, err = eventloop.OpenProcessors(); err != nil {
		f.log.WithError(err).Warn("cannot tell when processors are busy; VMs poll all the same")
	}
	for i, cfg := range vms {
		v := newVM(cfg, control.FromConfig, f)
		f.vms = append(f.vms, v)
		if err := v.open(limits[i]); err != nil {
			return blame(v, err, len(vms))
		}
	}
	return nil
}

// blame names the VM in an error, if there are several.
func blame(v *vm, err error, vms int) error {
	if err == nil || vms == 1 {
		return err
	}
	return fmt.Errorf("VM %s: %w", v.name, err)
}

// start serves what open made.
func (f *fleet) start() {
	f.mu.Lock() // one that ends at once is not the last
	defer f.mu.Unlock()
	for _, v := range f.vms {
		f.startVM(v)
	}
}

// startVM serves a VM of the list. The caller holds mu.
func (f *fleet) startVM(v *vm) {
	v.start()
	f.watchers.Go(func() { f.watch(v) })
}

// watch waits until a VM has nothing more to do and ends it then, until it can be
// replaced, or until it is abandoned.
func (f *fleet) watch(v *vm) {
	select {
	case <-v.over:
		f.ended(v, v.end())
	case <-v.vacant:
		f.replace(v)
	case <-v.abandoned:
	}
}

// ended notes that a VM has ended, by err or in good order.
func (f *fleet) ended(v *vm, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closing || v.leaving {
		return // who ended it sees to it
	}
	switch {
	case v.isAbandoned():
		f.abandon(v)
	case err != nil:
		v.fail(err)
	default:
		v.log.Info("VM ended")
		f.vms = slices.DeleteFunc(f.vms, func(other *vm) bool { return other == v })
	}
	if !slices.ContainsFunc(f.vms, (*vm).up) {
		f.isOver()
	}
}

// holding returns the VMs that have descriptors: those that serve, and those that are
// abandoned. It is safe for concurrent use.
func (f *fleet) holding() []*vm {
	return slices.DeleteFunc(f.list(), func(v *vm) bool { return !v.up() && !v.isAbandoned() })
}

// list returns the VMs, those that failed included. It is safe for concurrent use.
func (f *fleet) list() []*vm {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.vms)
}

// close ends the VMs, all at once. Bytes for host programs are waited for until
// giveUp; a loop that hangs, no longer than endLimit after that. The error tells of
// those that failed, too.
func (f *fleet) close() error {
	f.mu.Lock()
	f.closing = true
	vms := slices.Clone(f.vms)
	f.mu.Unlock()
	errs := make([]error, len(vms))
	var ending sync.WaitGroup
	for i, v := range vms {
		ending.Go(func() { errs[i] = blame(v, v.end(), len(vms)) })
	}
	ending.Wait()
	f.watchers.Wait()
	f.giveUp()
	return gather(append(errs, f.processors.Close())...)
}
