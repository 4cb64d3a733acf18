package pipelineworker_test

import (
	"testing"

	"rpc.do/bus/bustest"
)

func TestMain(m *testing.M) { bustest.Main(m) }
