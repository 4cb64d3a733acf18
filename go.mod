module rpc.do

go 1.26.0
