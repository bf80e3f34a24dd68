"""Scrapes the gateways' pods for their load."""
