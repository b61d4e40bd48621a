package daemon

import (
	"errors"

	"github.com/sirupsen/logrus"

	"github.com/vhost-user-vsock/vhost-user-vsock/config"
	"github.com/vhost-user-vsock/vhost-user-vsock/stats"
)

// programStats is what the metrics of the program are made of.
type programStats struct {
	applied, refused stats.Counter // reloads
	waiting          stats.Gauge   // options that apply when the program starts again
}

// reload reads the configuration again. A faulty one changes nothing. One runs at
// a time.
func (d *daemon) reload() {
	cfg, err := d.line.Reload(d.cfg, d.granted)
	if err == nil {
		err = d.fleet.apply(cfg.VMs)
	}
	if errors.Is(err, errClosing) {
		return
	}
	if err != nil {
		d.log.WithError(err).Error("configuration stays as it is")
		d.stats.refused.Inc()
		return
	}
	d.applyToProgram(&cfg)
	d.log.WithField("vms", len(cfg.VMs)).Info("configuration was read again")
	d.stats.applied.Inc()
}

// applyToProgram applies options of the program, as far as it can while it runs.
func (d *daemon) applyToProgram(to *config.Daemon) {
	d.log.SetLevel(to.LogLevel)
	d.cfg.LogLevel = to.LogLevel
	d.cfg.VMs = to.VMs
	d.defaults.Store(&to.Defaults)
	waiting := d.cfg.Changes(to).Waiting
	d.stats.waiting.Set(int64(len(waiting)))
	if len(waiting) > 0 {
		d.log.WithFields(logrus.Fields{"options": waiting}).Warn("options apply when the program starts again")
	}
}
