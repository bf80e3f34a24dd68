"""The other half of the pair, spoken to in the Open Inference Protocol: any V2 server can stand there."""
