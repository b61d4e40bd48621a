package daemon

import (
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/vhost-user-vsock/vhost-user-vsock/config"
	"github.com/vhost-user-vsock/vhost-user-vsock/sandbox"
)

// confine gives up what the daemon does not need once its sockets are there,
// and says what holds then.
func (d *daemon) confine() error {
	_, _ = time.Now().Zone() // reads the file of the time zone, which log lines need
	paths := d.cfg.Paths()
	granted := map[config.Use][]string{
		config.MakeSockets: resolveAll(paths.Sockets),
		config.ReadFiles:   resolveAll(paths.Files),
		config.WriteFiles:  resolveAll(paths.Written),
	}
	state, err := sandbox.Enter(d.cfg.Sandbox, paths)
	if err != nil {
		return err
	}
	if state.Landlock {
		d.granted = func(dir string, use config.Use) error { return checkBelow(granted[use], dir) }
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

// resolveAll returns where the directories really are.
func resolveAll(dirs []string) []string {
	var all []string
	for _, dir := range dirs {
		if real, err := resolve(dir); err == nil { // else it is of no use anyway
			all = append(all, real)
		}
	}
	return all
}

func resolve(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(dir)
}

// checkBelow returns an error unless dir is one of granted, or below one.
func checkBelow(granted []string, dir string) error {
	real, err := resolve(dir)
	if err != nil {
		return err
	}
	for at := real; ; at = filepath.Dir(at) {
		switch {
		case slices.Contains(granted, at):
			return nil
		case at == filepath.Dir(at):
			return fmt.Errorf("the sandbox of the running program has no access to %s; add it to runtime-dir and start the program again, or choose a directory that it has", real)
		}
	}
}
