package ctl

import (
	"os"
	"testing"
	"time"
)

// asClient makes the test binary be the client.
const asClient = "VHOST_USER_VSOCK_TEST_AS_CTL"

func TestMain(m *testing.M) {
	if os.Getenv(asClient) != "" {
		os.Exit(Run(os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

const testLimit = 20 * time.Second
