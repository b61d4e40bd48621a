package daemon

import (
	"time"

	"github.com/sirupsen/logrus"

	"github.com/vhost-user-vsock/vhost-user-vsock/sandbox"
)

// confine gives up what the daemon does not need once its sockets are there,
// and says what holds then.
func (d *daemon) confine() error {
	_, _ = time.Now().Zone() // reads the file of the time zone, which log lines need
	state, err := sandbox.Enter(d.cfg.Sandbox, d.cfg.Paths())
	if err != nil {
		return err
	}
	log := d.log.WithFields(logrus.Fields{
		"capabilities": state.Capabilities,
		"landlock":     state.Landlock,
		"seccomp":      state.Seccomp,
	})
	if state.Missing != nil {
		log = log.WithField("missing", state.Missing.Error())
	}
	log.Info("privileges are given up")
	return nil
}

// reload reads the configuration again. One that is faulty changes nothing.
func (d *daemon) reload() {
	cfg, err := d.line.Reload(d.cfg, func(string) error { return nil })
	if err != nil {
		d.log.WithError(err).Error("configuration stays as it is")
		return
	}
	for i, v := range d.fleet.list() {
		v.setGuestCID(cfg.VMs[i].GuestCID)
	}
	d.cfg = cfg
}
