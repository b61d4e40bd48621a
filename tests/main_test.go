package tests

import (
	"os"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/scarce"
)

func TestMain(m *testing.M) {
	scarce.Launch()
	os.Exit(m.Run())
}
