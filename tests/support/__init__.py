"""Networks, stand-ins and checks that several tests share."""
