package daemon

import (
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/config"
)

// Some options need another session: sockets, or what is negotiated in it.
// Frontends like QEMU never connect again, so to end a session for that would
// cost the guest its device. The VM is replaced when the frontend has left.

// vacancyRetry is when one looks again who finds somebody at the door. It may be
// a frontend that connects again at once, or somebody who never says a word.
const vacancyRetry = time.Second

// successor is what a VM is to be.
type successor struct {
	cfg     config.VM
	options []string // that are different
}

// replaceBy has the VM replaced once its frontend has left; nil: it stays. waiting
// are the options for which that is done.
func (v *vm) replaceBy(cfg *config.VM, waiting []string) {
	v.wanted.Store(nil)
	v.stats.waiting.Set(int64(len(waiting)))
	if cfg != nil {
		v.wanted.Store(&successor{*cfg, waiting})
		v.log.WithField("options", waiting).Info("options apply when the frontend has left")
		v.loop.Do(v.vacate)
	}
}

// vacate closes the door behind a frontend that has left, if the VM is to be
// replaced. It runs on the loop.
func (v *vm) vacate() {
	if v.vacated || v.wanted.Load() == nil || v.stats.vhostuser.Attached.Load() != 0 {
		return
	}
	if v.stats.vhostuser.Candidates.Load() != 0 {
		time.AfterFunc(vacancyRetry, func() { v.loop.Do(v.vacate) })
		return
	}
	v.vacated = true
	if err := v.server.Close(); err != nil {
		v.log.WithError(err).Error("frontends are not turned away")
	}
	close(v.vacant)
}
