package daemon

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/config"
	"github.com/vhost-user-vsock/vhost-user-vsock/control"
	"github.com/vhost-user-vsock/vhost-user-vsock/hostsock"
)

// Nothing ends a loop that hangs in a system call. A VM that has to go and whose loop
// does not let it is abandoned: the fleet goes on, and lists it as failed until the
// hang ends. Nobody gets its name and its paths till then. Its guest may still be
// attached: a second device would serve the same rings in the same memory when the
// first one wakes up.

// endLimit is how long a loop may take to stop and everything it owned to be closed.
// The disk of a trace is given 2 s of that.
const endLimit = 3 * time.Second

// errAbandoned is what the end of an abandoned VM comes to.
var errAbandoned = errors.New("its event loop does not answer, so it is abandoned")

// isAbandoned reports whether the VM did not end when it should have, even if it has by
// now. It is safe for concurrent use.
func (v *vm) isAbandoned() bool {
	select {
	case <-v.abandoned:
		return true
	default:
		return false
	}
}

// abandon has the VM, which could not end, listed until it has. The caller holds mu.
func (f *fleet) abandon(v *vm) {
	v.wanted.Store(nil)
	v.stats.waiting.Set(0)
	v.setStuck(true)
	v.fail(errAbandoned)
	go f.bury(v) // no watcher, for the end of the program does not wait for it
}

// bury waits for the end of an abandoned VM and serves what is to come after it.
func (f *fleet) bury(v *vm) {
	<-v.done
	f.changing.Lock()
	defer f.changing.Unlock()
	f.mu.Lock()
	f.vms = slices.DeleteFunc(f.vms, func(other *vm) bool { return other == v })
	closing := f.closing
	f.mu.Unlock()
	if v.err != nil {
		v.log.WithError(v.err).Warn("VM ended badly")
	}
	v.log.Info("abandoned VM has ended")
	if !closing {
		f.refill(v.wanted.Load(), v.origin)
	}
}

// supersede ends a VM and serves another one in its place: at once or, if it had to be
// abandoned, when it has ended. The caller holds changing.
func (f *fleet) supersede(v *vm, cfg config.VM, origin control.Origin) error {
	f.remove([]*vm{v})
	if !v.isAbandoned() {
		return f.add(cfg, origin)
	}
	f.mu.Lock()
	v.origin = origin
	f.mu.Unlock()
	v.wanted.Store(&successor{cfg: cfg})
	v.log.Error("VM begins anew when the abandoned one has ended")
	return nil
}

// checkAbandoned refuses a VM that is to have what an abandoned one has.
func (f *fleet) checkAbandoned(cfg config.VM) error {
	for _, v := range f.list() {
		if !v.isAbandoned() {
			continue
		}
		if err := config.CheckBeside([]config.VM{v.cfg}, "", cfg); errors.Is(err, config.ErrTaken) || errors.Is(err, hostsock.ErrConflict) {
			return fmt.Errorf("%w, or wait: VM %s is abandoned and has not ended", err, v.name)
		}
	}
	return nil
}
