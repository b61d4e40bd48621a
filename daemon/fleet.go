package daemon

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/sirupsen/logrus"

	"github.com/vhost-user-vsock/vhost-user-vsock/config"
	"github.com/vhost-user-vsock/vhost-user-vsock/hostsock"
)

// fleet is the VMs that the process serves. Each ends alone.
type fleet struct {
	log   logrus.FieldLogger
	own   hostsock.Registry // the sockets of all
	files uint64            // how many may be open

	tails  context.Context // done: host programs are not waited for any more
	giveUp func()          // makes it so

	over     chan struct{}  // closed when the last VM has ended by itself
	isOver   func()         // closes over
	watchers sync.WaitGroup // one for each VM that was started

	mu      sync.Mutex
	vms     []*vm // guarded by mu; those that failed included
	closing bool  // guarded by mu
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
	for i, cfg := range vms {
		v, err := newVM(cfg, limits[i], f)
		if err != nil {
			return gather(f.blame(v, err, len(vms)), v.end())
		}
		f.vms = append(f.vms, v)
	}
	return nil
}

// blame names the VM in an error, if there are several.
func (f *fleet) blame(v *vm, err error, vms int) error {
	if err == nil || vms == 1 {
		return err
	}
	return fmt.Errorf("VM %s: %w", v.name, err)
}

// start serves what open made.
func (f *fleet) start() {
	for _, v := range f.vms {
		f.startVM(v)
	}
}

func (f *fleet) startVM(v *vm) {
	v.start()
	f.watchers.Go(func() { f.watch(v) })
}

// watch waits until a VM has nothing more to do, and ends it then.
func (f *fleet) watch(v *vm) {
	<-v.over
	err := v.end()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closing {
		return // close sees to it
	}
	if err != nil {
		v.fail(err)
	} else {
		v.log.Info("VM ended")
		f.vms = slices.DeleteFunc(f.vms, func(other *vm) bool { return other == v })
	}
	if !slices.ContainsFunc(f.vms, (*vm).up) {
		f.isOver()
	}
}

// list returns the VMs, those that failed included. It is safe for concurrent use.
func (f *fleet) list() []*vm {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.vms)
}

// close ends the VMs, all at once. Bytes for host programs are waited for until
// giveUp. The error tells of those that failed, too.
func (f *fleet) close() error {
	f.mu.Lock()
	f.closing = true
	vms := f.vms
	f.mu.Unlock()
	errs := make([]error, len(vms))
	var ending sync.WaitGroup
	for i, v := range vms {
		ending.Go(func() { errs[i] = f.blame(v, v.end(), len(vms)) })
	}
	ending.Wait()
	f.watchers.Wait()
	f.giveUp()
	return gather(errs...)
}
