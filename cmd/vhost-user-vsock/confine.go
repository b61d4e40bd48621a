package main

import (
	"path/filepath"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/vhost-user-vsock/vhost-user-vsock/sandbox"
)

// confine gives up what the daemon does not need once its sockets are there,
// and says what holds then.
func confine(cfg config, log logrus.FieldLogger) error {
	_, _ = time.Now().Zone() // reads the file of the time zone, which log lines need
	state, err := sandbox.Enter(cfg.sandbox, cfg.paths())
	if err != nil {
		return err
	}
	log = log.WithFields(logrus.Fields{
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

// paths are the directories that a running daemon works in: where its socket
// files come and go.
func (c *config) paths() sandbox.Paths {
	p := sandbox.Paths{Sockets: []string{filepath.Dir(c.udsPath)}}
	if c.frontend == socketFile {
		p.Sockets = append(p.Sockets, filepath.Dir(c.socket))
	}
	if file := c.guestCID.file; file != "" {
		p.Files = append(p.Files, filepath.Dir(file))
	}
	return p
}
